"""Say of the API's fields what their types cannot: meaning, bounds, defaults, rules."""

from __future__ import annotations

from typing import Any, Final

from controlplane.api import names

Fields = dict[str, dict[str, Any]]

DURATION_PATTERN: Final = r"^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$"
MIN_REBUILD_AFTER: Final = "1m"
NAME_MAX: Final = 253
HASH_PATTERN: Final = "^sha256:[0-9a-f]{64}$"
SUBDOMAIN_PATTERN: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
LABEL_VALUE_PATTERN: Final = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"
PAIRS_MAX: Final = 32


def rule(expression: str, message: str) -> dict[str, Any]:
    """A CEL rule; its message is what the user reads."""
    return {"rule": expression, "message": message}


def _immutable(what: str, advice: str) -> list[dict[str, Any]]:
    return [rule("self == oldSelf", f"{what} cannot be changed; {advice}")]


def _text(description: str, maximum: int = NAME_MAX, **more: Any) -> dict[str, Any]:
    return {"description": description, "maxLength": maximum, **more}


def _name(description: str, **more: Any) -> dict[str, Any]:
    return _text(description, minLength=1, **more)


def _count(description: str) -> dict[str, Any]:
    return {"description": description, "format": "int32", "minimum": 0}


def _reference(path: str, whose: str) -> Fields:
    return {
        f"{path}.apiGroup": _text(f"API group of {whose}."),
        f"{path}.kind": _text(f"Kind of {whose}.", 63),
        f"{path}.name": _text(f"Name of {whose}, in the same namespace."),
    }


SNAPSHOT_CLASS: Final[Fields] = {
    "": {"description": "A way to take snapshots that this cluster offers."},
    "spec": {"description": "What the provider can do, where."},
    "spec.providerName": {
        "description": "The provider: it selects the driver on the nodes, and it is the end of the "
        f"label {names.PROVIDER_LABEL_PREFIX}<providerName> of the nodes where it works.",
        "minLength": 1,
        "maxLength": names.PROVIDER_NAME_MAX,
        "pattern": SUBDOMAIN_PATTERN,
        "x-kubernetes-validations": _immutable("providerName", "create another SnapshotClass"),
    },
    "spec.supportedSnapshotModes": {
        "description": "The modes that snapshots of this class may have.",
        "minItems": 1,
        "maxItems": 2,
        "x-kubernetes-list-type": "set",
    },
    "spec.nodeSelector": {
        "description": "Labels that a node must have for a snapshot to be built there.",
        "maxProperties": PAIRS_MAX,
        "x-kubernetes-map-type": "atomic",
    },
    "spec.nodeSelector{}": {"maxLength": 63, "pattern": LABEL_VALUE_PATTERN},
    "spec.buildPodAnnotations": {
        "description": "Copied as they are onto the Pods that snapshots are taken of.",
        "maxProperties": PAIRS_MAX,
        "x-kubernetes-map-type": "atomic",
        "x-kubernetes-validations": [
            rule(
                f"self.all(key, !key.startsWith('{names.PREFIX}'))",
                f"annotations under {names.PREFIX} are SnapStart's own; remove them",
            )
        ],
    },
    "spec.buildPodAnnotations{}": {"maxLength": 4096},
}

SNAPSHOT: Final[Fields] = {
    "": {"description": "A warm runtime kept as snapshots on nodes, for sessions to start from."},
    "spec": {
        "description": "What to snapshot, how.",
        "x-kubernetes-validations": [
            rule(
                "self.snapshotMode != 'Resume' || !has(self.forkPolicy)",
                "forkPolicy belongs to mode Fork; remove it or choose Fork",
            ),
            rule(
                "self.snapshotMode != 'Fork' || (self.sourceRef.kind == 'SandboxTemplate' && "
                f"has(self.sourceRef.apiGroup) && "
                f"self.sourceRef.apiGroup == '{names.EXTENSIONS_GROUP}')",
                "mode Fork takes its source from a SandboxTemplate of the API group "
                f"{names.EXTENSIONS_GROUP}",
            ),
            rule(
                "self.snapshotMode != 'Resume' || (self.sourceRef.kind == 'Sandbox' && "
                f"has(self.sourceRef.apiGroup) && "
                f"self.sourceRef.apiGroup == '{names.SANDBOX_GROUP}')",
                f"mode Resume takes its source from a Sandbox of the API group "
                f"{names.SANDBOX_GROUP}",
            ),
        ],
    },
    "spec.snapshotMode": {
        "description": "Fork: clean, one snapshot feeds many sessions. Resume: of one session, for "
        "that session.",
        "x-kubernetes-validations": _immutable("snapshotMode", "create another SandboxSnapshot"),
    },
    "spec.sourceRef": {
        "description": "What the snapshot is taken of, in the same namespace.",
        "x-kubernetes-map-type": "atomic",
        "x-kubernetes-validations": _immutable("sourceRef", "create another SandboxSnapshot"),
    },
    **_reference("spec.sourceRef", "the source"),
    "spec.sourceRef.kind": _name("Kind of the source.", required=True),
    "spec.sourceRef.name": _name("Name of the source.", required=True),
    "spec.snapshotClassName": _name("The SnapshotClass; another one builds everything anew."),
    "spec.forkPolicy": {"description": "When to build anew."},
    "spec.forkPolicy.rebuildOnSourceChange": {
        "description": "Build anew when the source changes; until then sessions start cold. If "
        "false, the snapshot serves those sessions only that still have its exact source.",
        "default": True,
    },
    "spec.forkPolicy.rebuildAfter": _text(
        "Build anew once the snapshot is older than this, such as 24h or 90m, at least "
        f"{MIN_REBUILD_AFTER}; it serves until it is replaced. Absent: never.",
        32,
        pattern=DURATION_PATTERN,
        **{
            "x-kubernetes-validations": [
                rule(
                    f"!self.matches('{DURATION_PATTERN}') || "
                    f"duration(self) >= duration('{MIN_REBUILD_AFTER}')".replace("\\", "\\\\"),
                    f"rebuildAfter must be at least {MIN_REBUILD_AFTER}",
                )
            ]
        },
    ),
    "status": {"description": "Written by the snapshot controller; the counts sum up to target."},
    "status.phase": {"description": "Sessions start from the snapshot while it is Ready."},
    "status.targetNodeCount": _count("Nodes that are to have the snapshot."),
    "status.creatingNodeCount": _count("Of these, nodes on which it is being built."),
    "status.readyNodeCount": _count("Of these, nodes on which it is ready."),
    "status.failedNodeCount": _count("Of these, nodes on which the last attempt failed."),
    "status.unavailableNodeCount": _count("Of these, nodes on which it cannot be used now."),
    "status.readyAt": {"description": "When the version that serves became Ready."},
    "status.message": _text("A summary for people.", 32768),
    "status.conditions": {
        "description": "Ready, Degraded, Rebuilding, Stale, ProtocolNotSupported.",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    },
    "status.conditions[].type": _name("What is said.", pattern="^[A-Za-z0-9./-]+$"),
    "status.conditions[].status": {
        "description": "Whether it is so.",
        "enum": ["True", "False", "Unknown"],
    },
    "status.conditions[].reason": _text("Why, in one word.", 1024),
    "status.conditions[].message": _text("Why, for people.", 32768),
    "status.conditions[].observedGeneration": {
        "description": "The metadata.generation that was looked at.",
        "minimum": 0,
    },
    "status.conditions[].lastTransitionTime": {"description": "When the status last changed."},
}

_TARGET_RULE = (
    "self.operation != 'Create' || (has(self.targetSandboxRef.name) && "
    "has(self.targetSandboxRef.kind) && self.targetSandboxRef.kind == 'Sandbox' && "
    "has(self.targetSandboxRef.apiGroup) && "
    f"self.targetSandboxRef.apiGroup == '{names.SANDBOX_GROUP}')"
)

TASK: Final[Fields] = {
    "": {"description": "An order of the snapshot controller to one node. Not for users."},
    "spec": {
        "description": "The order; it never changes.",
        "x-kubernetes-validations": [
            *_immutable("the spec of a task", "delete the task"),
            rule(
                "self.snapshotRef.kind == 'SandboxSnapshot' && has(self.snapshotRef.apiGroup) && "
                f"self.snapshotRef.apiGroup == '{names.GROUP}'",
                f"snapshotRef must name a SandboxSnapshot of the API group {names.GROUP}",
            ),
            rule(
                _TARGET_RULE,
                f"a Create task needs a Sandbox of the API group {names.SANDBOX_GROUP} in "
                "targetSandboxRef",
            ),
        ],
    },
    "spec.snapshotRef": {
        "description": "The snapshot that this serves.",
        "x-kubernetes-map-type": "atomic",
    },
    **_reference("spec.snapshotRef", "the snapshot"),
    "spec.snapshotRef.kind": _name("Kind of the snapshot.", required=True),
    "spec.snapshotRef.name": _name("Name of the snapshot.", required=True),
    "spec.snapshotUID": _name("UID of the snapshot."),
    "spec.snapshotMode": {"description": "Mode of the snapshot."},
    "spec.targetSandboxRef": {
        "description": "The Sandbox to take the snapshot of.",
        "x-kubernetes-map-type": "atomic",
    },
    **_reference("spec.targetSandboxRef", "the Sandbox"),
    "spec.targetNodeName": _name("The node that has to do it."),
    "spec.providerName": {
        **_name("The driver that has to do it."),
        "maxLength": names.PROVIDER_NAME_MAX,
    },
    "spec.snapshotKey": {**_name("The name that sessions restore by."), "maxLength": 63},
    "spec.snapshotHash": _text("Fingerprint of the source.", 71, pattern=HASH_PATTERN),
    "spec.operation": {
        "description": "Create the artifact, delete it, or look whether it is still there.",
        "default": "Create",
    },
    "status": {"description": "Written by the node's agent."},
    "status.phase": {"description": "How far the node is; absent until it has seen the task."},
    "status.message": _text("Why, for people.", 32768),
    "status.observedAt": {"description": "When this was written."},
    "status.startedAt": {"description": "When the node began."},
    "status.attempts": _count("How often the node has tried."),
    "status.podUID": _text("The Pod that the snapshot was taken of."),
}
