"""Spell every group, kind, label, annotation, finalizer once."""

from __future__ import annotations

from typing import Final

GROUP: Final = "runtime.agentcube.volcano.sh"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
PREFIX: Final = "agentcube.volcano.sh/"

SANDBOX_GROUP: Final = "agents.x-k8s.io"
EXTENSIONS_GROUP: Final = "extensions.agents.x-k8s.io"

# On a session's pod template: the restore intent. Its value is a snapshotKey.
SNAPSHOT_KEY: Final = PREFIX + "snapshot-key"
FORCE_REBUILD: Final = PREFIX + "force-rebuild"
# On a build Sandbox, as a label and as an annotation.
TEMPLATE_SANDBOX: Final = PREFIX + "template-sandbox"
# Labels of build Sandboxes and tasks: ownership, selectors for cleaning up.
SNAPSHOT_UID: Final = PREFIX + "snapshot-uid"
SNAPSHOT_KEY_ID: Final = PREFIX + "snapshot-key-id"
SNAPSHOT_HASH: Final = PREFIX + "snapshot-hash"  # an annotation: a hash is too long for a label
TARGET_NODE: Final = PREFIX + "target-node"
MANAGED_BY: Final = PREFIX + "managed-by"
MANAGED_BY_CODE_INTERPRETER: Final = "code-interpreter-controller"

PROVIDER_LABEL_PREFIX: Final = PREFIX + "snapshot-provider."
PROVIDER_NAME_MAX: Final = 45  # a label's name holds 63 characters, 18 of which are the prefix

SNAPSHOT_FINALIZER: Final = PREFIX + "snapshot-protection"

# Added to every container of a build Sandbox: the guest holds its gate closed.
SESSION_GATE_ENV: Final = "AGENTCUBE_SESSION_GATE"

# agent-sandbox
POD_NAME: Final = "agents.x-k8s.io/pod-name"
SANDBOX_TEMPLATE_REF: Final = "agents.x-k8s.io/sandbox-template-ref"
SANDBOX_TEMPLATE_REF_HASH: Final = "agents.x-k8s.io/sandbox-template-ref-hash"

# AgentCube's session labels; never on build Sandboxes.
SESSION_ID: Final = "runtime.agentcube.io/session-id"
WORKLOAD_NAME: Final = "runtime.agentcube.io/workload-name"
SANDBOX_NAME: Final = "runtime.agentcube.io/sandbox-name"
SESSION_LABELS: Final = (SESSION_ID, WORKLOAD_NAME, SANDBOX_NAME)


def provider_label(provider_name: str) -> str:
    """The Node label that says a provider works there; its value is "true"."""
    return PROVIDER_LABEL_PREFIX + provider_name
