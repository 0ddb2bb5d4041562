"""List the scenarios of a cluster: what each sets up, what has to come of it."""

from __future__ import annotations

from bench.validate.judge import (
    are_cold,
    are_restored,
    carry_intent,
    carry_none,
    has_as_many_as,
    has_starts,
    is_above,
    is_fact,
    share_no_identity,
    tell,
)
from bench.validate.scenario import Scenario, Stage
from controlplane.sessions.decision import StartReason

RESTORED, FELL_BACK = "SandboxRestoredFromSnapshot", "SandboxRestoreFallback"
FAILING, SHORT, DROPPED = "monitor fails", "artifact truncated", "artifact missing"
ELSEWHERE = "other node"
NOT_RESTORED, NOT_THERE = "restore fails", "snapshot dropped"

_NOT_YET = (StartReason.NOT_READY, StartReason.NO_ACTIVE_SET, StartReason.NO_READY_ARTIFACT)
_STORE = (StartReason.STORE_ERROR, StartReason.STORE_TIMEOUT)

CLUSTER_SCENARIOS = (
    Scenario(
        "cluster: cold baseline",
        Stage.CLUSTER,
        "Kubernetes with two nodes; a template without a snapshot",
        "each session boots, no restore intent on any",
        (
            has_as_many_as("cold", "asked"),
            are_cold("cold", reasons=("no_intent",)),
            carry_none("cold"),
            share_no_identity("cold"),
        ),
        ("cold",),
    ),
    Scenario(
        "cluster: no active set",
        Stage.CLUSTER,
        "a snapshot is declared; a session starts while its first set is being built",
        "the session boots, says why, carries no intent; the set is Ready afterwards",
        (
            has_starts("no active set"),
            are_cold("no active set", reasons=_NOT_YET),
            carry_none("no active set"),
            is_fact("phase_when_asked", "Pending", "Creating"),
            is_above("built_in_s", 0.0),
        ),
        (),
    ),
    Scenario(
        "cluster: restore hit",
        Stage.CLUSTER,
        "the snapshot is Ready on both nodes; sessions one after another",
        "intent on each, each node restores, an event says so, identities are new",
        (
            has_as_many_as("restored", "asked"),
            are_restored("restored"),
            carry_intent("restored"),
            tell(RESTORED, "restored"),
            share_no_identity("restored"),
        ),
        ("restored",),
    ),
    Scenario(
        "cluster: N-way fan-out",
        Stage.CLUSTER,
        "N Sandboxes at once",
        "N Sandboxes Ready, all restored, no two alike",
        (
            has_as_many_as("restored", "asked"),
            are_restored("restored"),
            carry_intent("restored"),
            tell(RESTORED, "restored"),
            share_no_identity("restored"),
            is_above("wall_ms", 0.0),
        ),
        ("restored",),
    ),
    Scenario(
        "cluster: store down",
        Stage.CLUSTER,
        "the artifact store's server is killed; a session starts; it comes back",
        "the session is accepted, boots, says why, carries no intent; later ones restore again",
        (
            has_starts("store down"),
            are_cold("store down", reasons=_STORE),
            carry_none("store down"),
            is_above("accepted_in_ms", 0.0),
            has_starts("store back"),
            are_restored("store back"),
        ),
        (),
    ),
    Scenario(
        "cluster: restore fails",
        Stage.CLUSTER,
        "on one node in turn: a real QEMU behind a program that ends when it is to load a machine; "
        "the artifact cut short; the artifact gone",
        "intent on each; the node boots what it cannot restore, says why on the Pod and by an "
        "event; the other node restores",
        (
            *(has_starts(group) for group in (FAILING, SHORT, DROPPED)),
            are_cold(FAILING, reasons=("restore_failed",)),
            are_cold(SHORT, reasons=("artifact_unusable",)),
            are_cold(DROPPED, reasons=("artifact_missing",)),
            carry_intent(FAILING, SHORT, DROPPED, ELSEWHERE),
            tell(FELL_BACK, FAILING, SHORT, DROPPED),
            are_restored(ELSEWHERE),
            is_fact("still_ready", True),
        ),
        (),
    ),
    Scenario(
        "cluster: hash differs",
        Stage.CLUSTER,
        "the template is edited while rebuilds are off, then they are on",
        "the snapshot is told stale, the session boots, says why; from the rebuilt set, which has "
        "another key, sessions restore",
        (
            has_starts("edited"),
            are_cold("edited", reasons=(StartReason.HASH_MISMATCH,)),
            carry_none("edited"),
            is_fact("is_told_stale", True),
            has_starts("rebuilt"),
            are_restored("rebuilt"),
            is_fact("key_is_new", True),
        ),
        (),
    ),
    Scenario(
        "cluster: node loss",
        Stage.CLUSTER,
        "N Sandboxes at once; agent and machines of one node are killed while they start; it "
        "comes back",
        "those of the other node are restored; the snapshot stays Ready with one artifact "
        "unavailable; no lost session looks Ready; new ones restore; all is whole again",
        (
            is_above("on_lost_node", 0),
            is_above("survivors", 0),
            has_as_many_as("survivor", "survivors"),
            are_restored("survivor"),
            is_fact("still_ready", True),
            is_fact("lost_that_look_ready", 0),
            has_starts("after the loss"),
            are_restored("after the loss"),
            is_above("recovered_in_s", 0.0),
            is_fact("machines_left", 0),
        ),
        ("survivor",),
    ),
)

KUASAR_SCENARIOS = (
    Scenario(
        "Kuasar: runtime failure",
        Stage.KUASAR,
        "real Kubernetes and agentd; sandboxer and kubelet are stand-ins, no machine runs: a "
        "restore fails; the sandboxer has dropped the snapshot",
        "what the sandboxer booted in silence is found out from its own list, and told on the Pod "
        "and by an event",
        (
            *(has_starts(group) for group in ("restored", NOT_RESTORED, NOT_THERE)),
            are_restored("restored"),
            are_cold(NOT_RESTORED, reasons=("not_restored",)),
            are_cold(NOT_THERE, reasons=("artifact_missing",)),
            carry_intent("restored", NOT_RESTORED, NOT_THERE),
            tell(RESTORED, "restored"),
            tell(FELL_BACK, NOT_RESTORED, NOT_THERE),
        ),
        (),
        machine_kind="stand-in",
    ),
)
