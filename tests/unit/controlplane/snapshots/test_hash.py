"""The hash of a template equals that of a session exactly if both run the same."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from controlplane.api.core import PodTemplate, SandboxSpec, SandboxTemplate
from controlplane.api.meta import JsonObject
from controlplane.api.types import SnapshotMode
from controlplane.errors import RejectedError
from controlplane.snapshots.hash import (
    _encode,
    compute_hash,
    fork_source,
    session_source,
    with_secure_defaults,
)
from tests.unit.controlplane.snapshots.samples import (
    container,
    pod_spec,
    session,
    snapshot_class,
    template,
)

CLASS = snapshot_class()
RESOLVERS = {"nameservers": ["8.8.8.8", "1.1.1.1"]}


def _template_hash(made: SandboxTemplate) -> str:
    return compute_hash(fork_source(made, CLASS))


def _session_hash(made: SandboxSpec, of: SandboxTemplate) -> str:
    return compute_hash(session_source(made, of, CLASS))


def _pool_copy(of: SandboxTemplate) -> SandboxSpec:
    """What SandboxWarmPool of agent-sandbox makes of a template, after its typed client."""
    spec = copy.deepcopy(of.spec.pod_template.spec)
    spec.setdefault("automountServiceAccountToken", False)
    if of.spec.has_default_network and "dnsPolicy" not in spec:
        spec |= {"dnsPolicy": "None", "dnsConfig": RESOLVERS}
    for one in spec["containers"]:
        one.setdefault("resources", {})
    labels = {
        "agents.x-k8s.io/warm-pool-sandbox": "0a1b2c3d",
        "agents.x-k8s.io/sandbox-template-ref-hash": "4e5f6071",
        "agents.x-k8s.io/sandbox-pod-template-hash": "4e5f6072",
        "agents.x-k8s.io/sandbox-template-hash": "4e5f6073",
        **(of.spec.pod_template.metadata.labels or {}),
    }
    return session(
        spec, labels=labels, annotations={"cluster-autoscaler.kubernetes.io/safe-to-evict": "true"}
    )


def _agentcube_copy(of: SandboxTemplate) -> SandboxSpec:
    """What AgentCube's workload manager adds."""
    labels = {
        "runtime.agentcube.io/session-id": "5d1e",
        "runtime.agentcube.io/sandbox-name": "python-x7",
        **(of.spec.pod_template.metadata.labels or {}),
    }
    return session(copy.deepcopy(of.spec.pod_template.spec), labels=labels)


TEMPLATES = {
    "plain": template(),
    "labelled": template(labels={"app": "python"}),
    "own network rules": template(network_policy={"ingress": []}),
    "unmanaged network": template(network_policy_management="Unmanaged"),
    "own resolver": template(pod_spec(dnsPolicy="ClusterFirst")),
    "token wanted": template(pod_spec(automountServiceAccountToken=True)),
    "auth key": template(container(env=[{"name": "PICOD_AUTH_PUBLIC_KEY", "value": "PEM"}])),
}


def test_hash_is_sha256_in_hex() -> None:
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", _template_hash(template()))


def test_hash_never_changes_between_versions() -> None:
    assert _template_hash(template(labels={"app": "python"})) == (
        "sha256:f5de4d7eabd509b8869751ca6d38a83abf5bcfb9686f84472dfb6e1ee84eb05e"
    )


@pytest.mark.parametrize("made", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("copied", [_pool_copy, _agentcube_copy], ids=["pool", "agentcube"])
def test_an_ordinary_session_hashes_like_its_template(made: SandboxTemplate, copied: Any) -> None:
    assert _session_hash(copied(made), made) == _template_hash(made)


@pytest.mark.parametrize(
    "changed",
    [
        session(container(image="python@sha256:2")),
        session(container(env=[{"name": "A", "value": "1"}])),
        session(pod_spec(automountServiceAccountToken=True)),
        session(pod_spec(dnsPolicy="ClusterFirst")),
        session(pod_spec(dnsPolicy="None", dnsConfig={"nameservers": ["10.0.0.1"]})),
        session(pod_spec(serviceAccountName="root")),
        session(labels={"app": "other"}),
        session(annotations={"example.org/runs-as": "x"}),
        SandboxSpec(
            pod_template=PodTemplate(spec=pod_spec()),
            volume_claim_templates=({"metadata": {"name": "data"}},),
        ),
    ],
)
def test_defect_69_a_session_that_differs_has_another_hash(changed: SandboxSpec) -> None:
    assert _session_hash(changed, template()) != _template_hash(template())


def test_public_resolvers_count_where_agent_sandbox_does_not_add_them() -> None:
    made = template(network_policy_management="Unmanaged")
    explicit = session(pod_spec(dnsPolicy="None", dnsConfig=RESOLVERS))
    assert _session_hash(explicit, made) != _template_hash(made)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("mode", SnapshotMode.RESUME),
        ("namespace", "other"),
        ("source_name", "other"),
        ("source_uid", "other"),
        ("class_name", "other"),
        ("provider_name", "other"),
        ("build_pod_annotations", {"a": "b"}),
        ("volume_claim_templates", ({"metadata": {"name": "data"}},)),
    ],
)
def test_every_member_counts(member: str, value: Any) -> None:
    source = fork_source(template(), CLASS)
    assert compute_hash(dataclasses.replace(source, **{member: value})) != compute_hash(source)


@pytest.mark.parametrize("empty", [None, {}])
def test_no_build_annotations_are_the_same_as_empty_ones(empty: dict[str, str] | None) -> None:
    source = fork_source(template(), CLASS)
    changed = dataclasses.replace(source, build_pod_annotations=empty, volume_claim_templates=())
    assert compute_hash(changed) == compute_hash(source)


def test_selector_of_the_class_does_not_count() -> None:
    narrowed = snapshot_class(node_selector={"zone": "a"})
    assert compute_hash(fork_source(template(), narrowed)) == _template_hash(template())


def test_defect_88_a_rotated_auth_key_changes_the_hash() -> None:
    old, new = (
        template(container(env=[{"name": "PICOD_AUTH_PUBLIC_KEY", "value": key}]))
        for key in ("old", "new")
    )
    assert _template_hash(old) != _template_hash(new)


def test_secure_defaults_leave_the_template_as_it_is() -> None:
    made = template()
    spec = with_secure_defaults(made, made.spec.pod_template.spec)
    assert made.spec.pod_template.spec == pod_spec()
    assert spec["automountServiceAccountToken"] is False
    assert spec["dnsConfig"] == RESOLVERS


def test_lone_surrogates_do_not_stop_the_hash() -> None:
    assert _template_hash(template(container(args=["\ud800"]))).startswith("sha256:")


def test_a_spec_without_bottom_is_refused() -> None:
    spec: JsonObject = {}
    for _ in range(100_000):
        spec = {"x": spec}
    with pytest.raises(RejectedError, match="too deep"):
        _template_hash(template(spec))
    while spec:  # one level at a time: the interpreter frees it by recursion too
        spec = spec["x"]


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.text(max_size=8) | st.integers() | st.booleans() | st.lists(st.text(max_size=4)),
    )
)
@example({"\x7f": '\u2028\x00\x1f/\\"', "\uffff": 2**70, "\U00010000": -(2**70), "ü": "a"})
def test_both_encoders_write_the_same_bytes(document: dict[str, Any]) -> None:
    plain = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert _encode(document) == plain.encode("utf-8", "surrogatepass")
