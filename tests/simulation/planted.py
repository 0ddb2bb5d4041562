"""Defects put into production code on purpose, to see that the simulation finds them.

Each is one of docs/defects.md, by its number: what the first public implementation did, done again
to this one. `number` with a letter: one of several sides of a defect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final
from unittest import mock

from . import planted_control as control
from . import planted_others as others
from .planted_control import Patches


@dataclass(frozen=True)
class Planted:
    """number: of docs/defects.md. what: the defect. patches: (owner, name, replacement).

    last_seen: a seed that showed it when this was written; where a quick search begins.
    """

    number: str
    what: str
    patches: Callable[[], Patches]
    last_seen: int = 0

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Inside, production code has the defect."""
        with ExitStack() as stack:
            for owner, name, replacement in self.patches():
                stack.enter_context(mock.patch.object(owner, name, replacement))
            yield


PLANTED: Final = (
    Planted(
        "10", "the version is the manifest, written again", others.version_is_marshalled_again, 12
    ),
    Planted("12", "artifacts of a set that was replaced leak", control.nothing_is_retired),
    Planted("14", "finished tasks are not cleaned up", control.finished_tasks_stay),
    Planted(
        "15",
        "a reference that names no set is followed",
        control.pending_is_looked_up_unguarded,
        12,
    ),
    Planted(
        "16",
        "tolerations are hashed in the order they come in",
        control.tolerations_keep_their_order,
        2,
    ),
    Planted(
        "25",
        "a status that differs in readyAt alone is not written",
        control.ready_at_does_not_count,
        16,
    ),
    Planted("26", "nothing wakes the controller when something falls due", control.nothing_wakes),
    Planted("27", "the name of a build Sandbox lacks the key", control.build_name_lacks_the_key, 6),
    Planted("28", "names of different nodes collide", control.names_collide, 6),
    Planted("29", "keys repeat across namespaces, after re-creation", control.keys_repeat, 12),
    Planted(
        "30", "tasks, Sandboxes are made before they are recorded", control.made_before_recorded
    ),
    Planted("31a", "a failed artifact counts as covered", control.failed_counts_as_covered, 7),
    Planted("31b", "the agent tries for ever instead", others.agent_tries_for_ever, 62),
    Planted("31c", "retries have no budget", control.no_budget, 72),
    Planted("32", "builds have no deadline", control.no_deadline, 7),
    Planted("33", "nothing ever fails", control.never_failed, 2),
    Planted("34", "no node that fits leaves it Pending", control.no_node_is_pending, 2),
    Planted("35a", "a lost node's artifact stays Ready", control.lost_nodes_stay_ready),
    Planted(
        "35b",
        "a machine that took a lost one's name passes for it",
        control.rejoined_is_the_same,
        12,
    ),
    Planted("36", "a stale pending set takes over", control.stale_pending_goes_on, 2),
    Planted("37", "a failed pending set stays for ever", control.failed_pending_stays, 16),
    Planted(
        "39",
        "the active set is left alone while another is built",
        control.only_pending_is_advanced,
    ),
    Planted("40", "the first Ready artifact takes over", control.first_ready_takes_over, 23),
    Planted("41", "tasks of other sets are taken for one's own", control.any_task_counts, 6),
    Planted("42", "manifests have no owner", control.no_owner),
    Planted("43", "a late write brings a manifest back", control.late_put_resurrects, 43),
    Planted(
        "44",
        "build Sandboxes without a task are missed",
        control.builds_without_task_are_missed,
        13,
    ),
    Planted("45", "errors of single steps are swallowed", control.errors_are_swallowed, 48),
    Planted(
        "46", "selectors that contradict override one another", control.selectors_override, 301
    ),
    Planted("47a", "PreferNoSchedule is taken for hard", control.wishes_are_hard, 19),
    Planted(
        "47b", "a RuntimeClass that is absent is ignored", control.runtime_class_is_ignored, 29
    ),
    Planted("47c", "a cordoned node is built on", control.cordoned_is_built_on, 22),
    Planted("48a", "the gate variable is there twice", control.gate_twice, 3),
    Planted("48b", "builds keep the service account token", control.token_is_kept),
    Planted("49", "a user's annotations reach the provider", control.user_annotations_pass),
    Planted("50", "a set outlives its template", control.old_set_outlives_its_template, 3),
    Planted("55", "messages are unbounded", control.messages_are_unbounded, 722),
    Planted("57", "a task's target is not checked", others.target_is_not_checked, 43),
    Planted("60", "observedAt is not stamped on Creating", others.observed_at_is_forgotten),
    Planted("65", "an error of the driver is taken for absence", others.errors_mean_absent, 287),
    Planted("67", "the node's label is set once", others.labels_are_set_once, 5),
    Planted("68", "the driver is called twice for one Sandbox", others.driver_is_called_twice),
    Planted("69", "the session's hash is not compared", others.hash_is_not_compared, 6),
    Planted("76", "snapshots that are being deleted serve", others.going_ones_serve, 900),
)
