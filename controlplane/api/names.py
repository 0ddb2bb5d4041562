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
# On a session's pod template, on a build's, on a task: the span that its start or build is part of,
# as W3C's header of that name. No part of any hash.
TRACEPARENT: Final = PREFIX + "traceparent"
FORCE_REBUILD: Final = PREFIX + "force-rebuild"
# On a build Sandbox, as a label and as an annotation.
TEMPLATE_SANDBOX: Final = PREFIX + "template-sandbox"
# Labels of build Sandboxes and tasks: ownership, selectors for cleaning up.
SNAPSHOT_UID: Final = PREFIX + "snapshot-uid"
SNAPSHOT_KEY_ID: Final = PREFIX + "snapshot-key-id"
SNAPSHOT_HASH: Final = PREFIX + "snapshot-hash"  # an annotation: a hash is too long for a label
TARGET_NODE: Final = PREFIX + "target-node"
# An annotation of a task: the machine that is meant, should another one take the node's name.
TARGET_NODE_UID: Final = PREFIX + "target-node-uid"
MANAGED_BY: Final = PREFIX + "managed-by"
MANAGED_BY_CODE_INTERPRETER: Final = "code-interpreter-controller"
# An annotation on a SandboxTemplate that our controller keeps; without it the template is not ours.
TEMPLATE_KEEPER: Final = "snapstart.agentcube.volcano.sh/kept-by"
TEMPLATE_KEEPER_US: Final = "snapstart"

PROVIDER_LABEL_PREFIX: Final = PREFIX + "snapshot-provider."
PROVIDER_NAME_MAX: Final = 45  # a label's name holds 63 characters, 18 of which are the prefix

# An agent's sign of life, in the control plane's namespace; each is named for its node.
AGENT_LEASE_PREFIX: Final = "snapstart-agentd-"

SNAPSHOT_FINALIZER: Final = PREFIX + "snapshot-protection"

# Added to every container of a build Sandbox: the guest holds its gate closed.
SESSION_GATE_ENV: Final = "AGENTCUBE_SESSION_GATE"

# On a session's Sandbox itself, by our admission webhook: why no restore intent was put in.
COLD_START_REASON: Final = "snapstart.agentcube.volcano.sh/cold-start-reason"

# On a Pod of a virtual node, by its agentd: how it started; why it is cold all the same.
FROM_SNAPSHOT: Final = "snapshot"
FROM_IMAGE: Final = "cold"
STARTED_FROM: Final = "snapstart.agentcube.volcano.sh/started-from"
STARTED_FROM_REASON: Final = "snapstart.agentcube.volcano.sh/started-from-reason"
# On a virtual Node: a label, and the key of its taint.
VIRTUAL_NODE: Final = PREFIX + "virtual-node"
# The RuntimeClass that steers Pods to virtual Nodes.
RUNTIME_CLASS: Final = "snapstart"

# Kuasar's, by which its sandboxer restores a Pod, and tells its guest whose it is.
KUASAR_TEMPLATE_KEY: Final = "kuasar.io/template-key"
KUASAR_TASK_ID: Final = "kuasar.io/task-id"
KUASAR_TASK_CONTEXT: Final = "kuasar.io/task-context"
# Without this, as "1", on a Pod no snapshot of it is taken.
KUASAR_READY_VERSION: Final = "kuasar.io/warm-fork-ready-protocol-version"
# Where a guest waits for its session, in which containers: on builds and on sessions.
KUASAR_READY_SOCKET: Final = "kuasar.io/warm-fork-readiness-socket"
KUASAR_READY_CONTAINERS: Final = "kuasar.io/warm-fork-containers"

# A Pod that carries one of these is restored from what it names, a build too.
PROVIDER_SELECTORS: Final = (
    "kuasar.io/snapshot-type",
    KUASAR_TEMPLATE_KEY,
    "kuasar.io/template-id",
    "kuasar.io/pod-uid",
    "kuasar.io/workload-generation",
)
# What a provider's runtime restores by. Nobody but SnapStart may put them on a session. What ends
# in "-" or "/" stands for all that begin with it.
PROVIDER_RESTORE_PREFIXES: Final = (
    *PROVIDER_SELECTORS,
    "kuasar.io/task-",
    "kuasar.io/container/",
    "kuasar.io/warm-fork-",
)

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


def agent_lease(node_name: str) -> str:
    """The Lease by which a node's agent says that it lives."""
    return AGENT_LEASE_PREFIX + node_name
