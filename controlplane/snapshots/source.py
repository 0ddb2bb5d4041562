"""Judge whether a SandboxSnapshot can be built at all, from what, where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Protocol

from controlplane.api.core import Node, SandboxTemplate
from controlplane.api.durations import NS_PER_S, parse_duration_ns
from controlplane.api.kuasar import validate_kuasar_class
from controlplane.api.types import SandboxSnapshot, SnapshotClass, SnapshotMode
from controlplane.api.validation import describe_problems, validate_class, validate_snapshot
from controlplane.errors import RejectedError
from controlplane.snapshots.hash import compute_hash, fork_source
from controlplane.snapshots.nodes import (
    Demand,
    Refusal,
    Targets,
    choose_targets,
    plan_demand,
)
from controlplane.snapshots.observed import Observed


@dataclass(frozen=True)
class Problem:
    """Why nothing can be built. reason: of the Ready condition, of an event.

    is_source_gone: what the sets were built from is no more, so they must not serve.
    """

    reason: str
    message: str
    recheck_s: float
    is_source_gone: bool = False


@dataclass(frozen=True)
class Source:
    """What is built, where. rebuild_after_s: None = never."""

    template: SandboxTemplate
    snapshot_class: SnapshotClass
    snapshot_hash: str
    targets: Targets
    demand: Demand
    rebuild_after_s: float | None
    nodes: Mapping[str, Node] = field(repr=False)

    @property
    def provider_name(self) -> str:
        """Who snapshots."""
        return self.snapshot_class.spec.provider_name

    @cached_property
    def target_names(self) -> frozenset[str]:
        """The nodes to be covered."""
        return frozenset(self.targets.nodes)

    def why_not(self, node_name: str) -> Refusal | None:
        """Why a node is no target."""
        return self.targets.why_not.get(node_name)


class ModeHandler(Protocol):
    """What differs between modes."""

    @property
    def mode(self) -> SnapshotMode:
        """Which."""

    def find_source(self, seen: Observed) -> Source | Problem:
        """What to build from; the class is there and offers the mode."""


class ForkHandler:
    """1:N, from a SandboxTemplate."""

    mode = SnapshotMode.FORK

    def find_source(self, seen: Observed) -> Source | Problem:
        """See ModeHandler."""
        template, snapshot_class = seen.template, seen.snapshot_class
        if template is None or template.metadata.is_terminating:
            return _no_template(seen)
        assert snapshot_class is not None
        problem = _check_template(seen, template)
        if problem is not None:
            return problem
        try:
            snapshot_hash = compute_hash(fork_source(template, snapshot_class))
        except RejectedError as exc:
            return _invalid(seen, str(exc))
        pod_spec = template.spec.pod_template.spec
        return Source(
            template=template,
            snapshot_class=snapshot_class,
            snapshot_hash=snapshot_hash,
            targets=choose_targets(
                pod_spec, snapshot_class, seen.runtime_class, seen.nodes.values()
            ),
            demand=plan_demand(pod_spec, snapshot_class, seen.runtime_class),
            rebuild_after_s=_rebuild_after_s(seen.snapshot),
            nodes=seen.nodes,
        )


# Resume is in the API; nothing builds it yet.
HANDLERS: Final[Mapping[SnapshotMode, ModeHandler]] = {SnapshotMode.FORK: ForkHandler()}


def find_source(seen: Observed) -> Source | Problem:
    """Repeat what admission would refuse, as a webhook may be off; then ask the mode's handler."""
    spec, policy = seen.snapshot.spec, seen.policy
    problem = _check_spec(seen)
    if problem is not None:
        return problem
    if seen.snapshot_class is None:
        return Problem(
            "SnapshotClassNotFound",
            f"SnapshotClass {spec.snapshot_class_name!r} does not exist; create it",
            policy.recheck_problem_s,
        )
    return HANDLERS[spec.snapshot_mode].find_source(seen)


def _check_spec(seen: Observed) -> Problem | None:
    """All that is wrong at once, under the reason of the first."""
    found = validate_snapshot(seen.snapshot, seen.snapshot_class)
    if seen.snapshot_class is not None:
        found += validate_class(seen.snapshot_class)
        found += validate_kuasar_class(seen.snapshot_class)
    if found:
        reason, message = found[0].kind.value, describe_problems(found)
        return Problem(reason, message, seen.policy.recheck_problem_s)
    if seen.snapshot.spec.snapshot_mode not in HANDLERS:
        return _invalid(seen, f"nothing handles mode {seen.snapshot.spec.snapshot_mode.value}")
    return None


def _no_template(seen: Observed) -> Problem:
    return Problem(
        "SourceTemplateNotFound",
        f"SandboxTemplate {seen.snapshot.spec.source_ref.name!r} does not exist in namespace "
        f"{seen.snapshot.metadata.namespace!r}",
        seen.policy.recheck_source_s,
        is_source_gone=True,
    )


def _check_template(seen: Observed, template: SandboxTemplate) -> Problem | None:
    if template.spec.volume_claim_templates:
        return _invalid(
            seen,
            f"SandboxTemplate {template.metadata.name!r} has volumeClaimTemplates; a snapshot "
            "must not hold a volume of a user",
        )
    if not template.spec.pod_template.spec.get("containers"):
        return _invalid(seen, f"SandboxTemplate {template.metadata.name!r} has no container")
    return None


def _rebuild_after_s(snapshot: SandboxSnapshot) -> float | None:
    policy = snapshot.spec.fork_policy
    if policy is None or not policy.rebuild_after:
        return None
    return parse_duration_ns(policy.rebuild_after) / NS_PER_S


def _invalid(seen: Observed, message: str) -> Problem:
    return Problem("InvalidSource", message, seen.policy.recheck_problem_s)
