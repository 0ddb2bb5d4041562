"""Say of each reason, of Kubernetes Events and of conditions, what it means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class Reason(NamedTuple):
    """on: kinds of objects."""

    on: str
    what: str
    advice: str


EVENTS: Final[Mapping[str, Reason]] = {
    "SandboxSnapshotCreating": Reason(
        "SandboxSnapshot",
        "the first version, or one after a loss, is being built",
        "wait",
    ),
    "SandboxSnapshotReady": Reason(
        "SandboxSnapshot",
        "sessions restore from it",
        "nothing",
    ),
    "SandboxSnapshotRebuilding": Reason(
        "SandboxSnapshot",
        "another version is being built; the message says whether the old one serves meanwhile",
        "wait",
    ),
    "SandboxSnapshotPromoted": Reason(
        "SandboxSnapshot",
        "the new version serves",
        "nothing",
    ),
    "SandboxSnapshotRebuildFailed": Reason(
        "SandboxSnapshot",
        (
            "the new version was given up; the old one serves, another attempt follows after half"
            " an hour"
        ),
        "look at the `ArtifactBuildError`s and tasks",
    ),
    "SandboxSnapshotDegraded": Reason(
        "SandboxSnapshot",
        "Ready, but not on all nodes",
        "the message names them",
    ),
    "SandboxSnapshotStale": Reason(
        "SandboxSnapshot",
        "the source changed and `rebuildOnSourceChange` is false",
        "`snapctl snapshot rebuild`, if that is wanted",
    ),
    "SandboxSnapshotRepaired": Reason(
        "SandboxSnapshot",
        "its record referred to a version that was not there; cleared",
        "report it, if nobody edited the store",
    ),
    "SandboxSnapshotFailed": Reason(
        "SandboxSnapshot",
        "nothing can be restored; another event has the particular reason",
        "see that",
    ),
    "ArtifactBuildError": Reason(
        "SandboxSnapshot",
        "builds failed, and are tried again",
        "the message has each node's words",
    ),
    "NoTargetNodes": Reason(
        "SandboxSnapshot",
        "no node fits; the message counts why not",
        "label, uncordon, add nodes; correct selectors",
    ),
    "SnapshotClassNotFound": Reason(
        "SandboxSnapshot",
        "its class does not exist",
        "create it",
    ),
    "SnapshotModeNotSupported": Reason(
        "SandboxSnapshot, task",
        "its class does not offer the mode; of a task, the node cannot now",
        "another class; look at the node's agentd",
    ),
    "UnsupportedSnapshotMode": Reason(
        "SandboxSnapshot",
        "mode Resume is not implemented yet",
        "use Fork",
    ),
    "SourceTemplateNotFound": Reason(
        "SandboxSnapshot",
        "its template does not exist; nothing serves any more",
        "create it; of a CodeInterpreter see its condition `TemplateManaged`",
    ),
    "InvalidSpec": Reason(
        "SandboxSnapshot",
        "it, or its class, says what admission would have refused",
        "the message has the fields; correct them",
    ),
    "InvalidSource": Reason(
        "SandboxSnapshot",
        "its source cannot be snapshotted",
        "the message says why",
    ),
    "ManifestCorrupt": Reason(
        "SandboxSnapshot",
        "its record cannot be read, or is another's; it is left alone",
        "look at it in the store; delete it there to have all built anew",
    ),
    "SnapshotContaminationDetected": Reason(
        "SandboxSnapshot, task",
        "a build's guest holds user state; no artifact was made",
        "[runtime authors](../runtime-authors.md#the-contamination-gate)",
    ),
    "SnapshotCreated": Reason(
        "task",
        "the artifact is ready on that node",
        "nothing",
    ),
    "DriverCreateFailed": Reason(
        "task",
        "an attempt failed, or the task did",
        "the message; `journalctl -u agentd` on that node",
    ),
    "PodUIDNotFound": Reason(
        "task",
        "the build's Pod still does not run, a minute after the task was made",
        "`kubectl describe` it",
    ),
    "SandboxRestoredFromSnapshot": Reason(
        "Sandbox",
        "its Pod is a fork",
        "nothing",
    ),
    "SandboxRestoreFallback": Reason(
        "Sandbox",
        "its Pod should have been a fork and was booted",
        "the message; [why](../operator.md#why-a-session-started-cold)",
    ),
    "SnapStartUnsupported": Reason(
        "Pod",
        "no machine can be what this Pod asks for",
        "[virtual nodes](../virtual-node.md#what-a-pod-may-be)",
    ),
    "InvalidResources": Reason(
        "Pod",
        "its resources are no quantities, or beyond `[machines]`",
        "correct them",
    ),
    "CreateContainerConfigError": Reason(
        "Pod",
        "a variable refers to what is not there",
        "create the Secret or ConfigMap",
    ),
    "TemplateApplied": Reason(
        "CodeInterpreter",
        "its SandboxTemplate is kept",
        "nothing",
    ),
    "PublicKeyMissing": Reason(
        "CodeInterpreter",
        "no template until the router has a key",
        "start the router, or set `authMode: none`",
    ),
    "TemplateNotOurs": Reason(
        "CodeInterpreter",
        "somebody else made the template",
        (
            "delete it, or set its annotation `snapstart.agentcube.volcano.sh/kept-by` to "
            "`snapstart`, to have SnapStart keep it"
        ),
    ),
    "TemplateContested": Reason(
        "CodeInterpreter",
        "somebody undoes what is written; left alone for an hour",
        "let one controller manage templates",
    ),
}

# Status and meaning, by type and reason.
CONDITIONS: Final[Mapping[tuple[str, str], tuple[str, str]]] = {
    ("Ready", "Restorable"): ("True", "sessions restore from it"),
    ("Ready", "Building"): ("False", "the first version, or one after a loss, is being built"),
    ("Ready", "BuildsFailed"): ("False", "every node has failed too often; tried again later"),
    ("Ready", "NoTargetNodes"): ("False", "no node fits; the message counts why not"),
    ("Ready", "SnapshotClassNotFound"): ("False", "its class does not exist"),
    ("Ready", "SnapshotModeNotSupported"): ("False", "its class does not offer the mode"),
    ("Ready", "UnsupportedSnapshotMode"): ("False", "mode Resume is not implemented yet"),
    ("Ready", "SourceTemplateNotFound"): ("False", "its template does not exist"),
    ("Ready", "InvalidSpec"): ("False", "it, or its class, says what admission would have refused"),
    ("Ready", "InvalidSource"): ("False", "its source cannot be snapshotted"),
    ("Ready", "ManifestCorrupt"): ("False", "its record cannot be read, or is another's"),
    ("Degraded", "NotReady"): ("False", "nothing serves, so nothing serves in part"),
    ("Degraded", "AllNodesReady"): ("False", "every target node can restore"),
    ("Degraded", "PartialNodeFailure"): ("True", "some nodes cannot; the message counts them"),
    ("Rebuilding", "NoReplacement"): ("False", "no other version is being built"),
    ("Rebuilding", "Initial"): ("True", "never seen beside a version that serves"),
    ("Rebuilding", "SourceChange"): ("True", "the source changed"),
    ("Rebuilding", "RebuildAfter"): ("True", "`spec.forkPolicy.rebuildAfter` has passed"),
    ("Rebuilding", "Force"): ("True", "somebody asked for it, as `snapctl snapshot rebuild` does"),
    ("Rebuilding", "Invalidated"): ("True", "the version before became unusable"),
    ("Stale", "SourceUnknown"): ("False", "there is no source to compare with; see `Ready`"),
    ("Stale", "SourceUnchanged"): ("False", "what serves is of the source as it is"),
    ("Stale", "SourceChanged"): ("True", "it is not, and the policy says not to rebuild"),
    ("ProtocolNotSupported", "NotReported"): ("False", "no guest was found to lack it"),
    ("ProtocolNotSupported", "GuestLacksProtocol"): (
        "True",
        "a guest does not speak the readiness protocol; no more attempts until the source changes",
    ),
    ("TemplateManaged", "TemplateApplied"): ("True", "the SandboxTemplate is as it should be"),
    ("TemplateManaged", "PublicKeyMissing"): (
        "False",
        "`authMode: picod`, and the router has made no key yet: no template is written without it",
    ),
    ("TemplateManaged", "TemplateNotOurs"): (
        "False",
        "somebody else made a template of that name, such as AgentCube's own controller; it is "
        "left alone",
    ),
    ("TemplateManaged", "TemplateContested"): (
        "False",
        "somebody changed or deleted ours three times within 10 minutes; left to them for an hour, "
        "or until the CodeInterpreter changes",
    ),
}
