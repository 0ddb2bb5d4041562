"""Compare what roles grant with what accounts asked for, as the API server's audit log has it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tests.kube.audit import Request, Role
from tests.kube.rights import Right, read_roles, rights_granted

_RUNTIME = "runtime.agentcube.volcano.sh"
_AGENT = Role("ClusterRole", "snapstart-agentd")
_REPLACING = Role("ClusterRole", "snapstart-agentd-replacing")
_VIRTUAL = Role("ClusterRole", "snapstart-virtual-node")
_CONTROL = Role("ClusterRole", "snapstart-controlplane")
_CONTROL_HERE = Role("Role", "snapstart-controlplane", "agentcube-system")
_REMOVED = "integration/cluster/test_kuasar.py::test_without_one_right_the_run_fails_and_says_which"
_REPEATED = "unit/controlplane/kube/test_recorder.py::test_a_repetition_is_a_patch"
_REPLACED = "adapters/node/test_restore_stuck.py::test_a_deletion_that_failed_after_it_was_noted_is_repeated"  # noqa: E501

# Rights that the whole runs have no use for: which test under tests/ has.
ELSEWHERE = {
    # The same happens twice within a short time, which in a whole run it may or may not.
    Right(_AGENT, "", "events", "patch"): _REPEATED,
    Right(_CONTROL, "", "events", "patch"): _REPEATED,
    # An agent finds an artifact whose snapshot was deleted while it was away.
    Right(_AGENT, _RUNTIME, "sandboxsnapshots", "list"): (
        "adapters/node/test_node_tasks.py::"
        "test_an_artifact_whose_snapshot_is_gone_is_swept_and_no_other"
    ),
    # The administrator has set kuasar.replace_stuck.
    Right(_REPLACING, "", "pods", "delete"): _REPLACED,
    Right(_REPLACING, "agents.x-k8s.io", "sandboxes", "patch"): _REPLACED,
    # A Pod takes variables from a ConfigMap.
    Right(_VIRTUAL, "", "configmaps", "get"): (
        "adapters/node/test_virtual_pods.py::"
        "test_a_pod_becomes_ready_when_its_guest_has_taken_on_its_identity"
    ),
    # A workload manager calls the HTTP endpoint.
    Right(_CONTROL, "authentication.k8s.io", "tokenreviews", "create"): (
        "integration/cluster/test_webhooks.py::test_a_workload_manager_asks_with_its_own_token"
    ),
    # Not asked for by a request: admission wants them of who makes an object with an owner that
    # its deletion waits for.
    Right(_CONTROL, _RUNTIME, "sandboxsnapshots/finalizers", "update"): _REMOVED,
    Right(_CONTROL, _RUNTIME, "codeinterpreters/finalizers", "update"): (
        "integration/cluster/test_templates.py::"
        "test_a_template_is_made_kept_and_collected_with_its_owner"
    ),
    # The certificates are months old.
    Right(_CONTROL_HERE, "", "secrets", "update", "snapstart-webhook-certificates"): (
        "unit/controlplane/sessions/test_keeper.py::test_replicas_that_rotate_together_agree"
    ),
}


def unused(roles: Iterable[str], requests: Iterable[Request]) -> set[Right]:
    """What roles of these names grant, and neither a request needed nor another test does."""
    granted = {right for right in rights_granted(read_roles()) if right.role.name in roles}
    used = {right for request in requests for right in _rights_used(request)}
    return granted - used - set(ELSEWHERE)


def _rights_used(request: Request) -> Iterator[Right]:
    """An apply that makes an object needs the right to create one, too."""
    if request.role is None:
        return
    made = request.verb == "patch" and request.code == 201
    for verb in (request.verb, "create") if made else (request.verb,):
        for name in ("", request.name):
            yield Right(request.role, request.group, request.resource, verb, name)
