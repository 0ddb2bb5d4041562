"""Pod specs of one meaning have one form."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.errors import RejectedError
from controlplane.snapshots.normalise import (
    normalise_claims,
    normalise_metadata,
    normalise_pod_spec,
)
from tests.unit.controlplane.snapshots.samples import container, pod_spec

TERMS: Any = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}}
SAME = {
    "node name": (pod_spec(nodeName="node-a"), pod_spec()),
    "null": (pod_spec(hostname=None), pod_spec()),
    "empty list": (pod_spec(tolerations=[]), pod_spec()),
    "empty map": (pod_spec(nodeSelector={}), pod_spec()),
    "null runtime class": (pod_spec(runtimeClassName=None), pod_spec()),
    "empty runtime class": (pod_spec(runtimeClassName=""), pod_spec()),
    "empty after its own members went": (container(resources={"limits": {}}), container()),
    "cpu": (
        container(resources={"limits": {"cpu": "1000m"}}),
        container(resources={"limits": {"cpu": 1}}),
    ),
    "memory": (
        container(resources={"requests": {"memory": "1024Mi"}}),
        container(resources={"requests": {"memory": "1Gi"}}),
    ),
    "overhead": (pod_spec(overhead={"cpu": "0.25"}), pod_spec(overhead={"cpu": "250m"})),
    "size limit": (
        pod_spec(volumes=[{"name": "v", "emptyDir": {"sizeLimit": "1024Mi"}}]),
        pod_spec(volumes=[{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}]),
    ),
    "env value a typed client omits": (
        container(env=[{"name": "A", "value": ""}]),
        container(env=[{"name": "A"}]),
    ),
    "false a typed client omits": (container(tty=False, stdin=False), container()),
    "zero a typed client omits": (
        container(livenessProbe={"periodSeconds": 0, "exec": {"command": ["x"]}}),
        container(livenessProbe={"exec": {"command": ["x"]}}),
    ),
    "protocol of the CRD's default": (
        container(ports=[{"containerPort": 80, "protocol": "TCP"}]),
        container(ports=[{"containerPort": 80}]),
    ),
    "secret name of the CRD's default": (
        container(envFrom=[{"secretRef": {"name": ""}}]),
        container(envFrom=[{"secretRef": {}}]),
    ),
    "no pod affinity terms": (
        pod_spec(affinity={"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}}),
        pod_spec(),
    ),
    "divisor": (
        container(
            env=[{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]
        ),
        container(
            env=[
                {
                    "name": "A",
                    "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "0"}},
                }
            ]
        ),
    ),
    "whole float": (pod_spec(priority=5.0), pod_spec(priority=5)),
}
DIFFERENT = {
    "emptyDir present": (
        pod_spec(volumes=[{"name": "v", "emptyDir": {}}]),
        pod_spec(volumes=[{"name": "v"}]),
    ),
    "pod security context present": (pod_spec(securityContext={}), pod_spec()),
    "container security context present": (container(securityContext={}), container()),
    "affinity without terms": (pod_spec(affinity=TERMS), pod_spec()),
    "empty term": (
        pod_spec(
            affinity={
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{}]}
                }
            }
        ),
        pod_spec(affinity=TERMS),
    ),
    "selector of all": (
        pod_spec(topologySpreadConstraints=[{"maxSkew": 1, "labelSelector": {}}]),
        pod_spec(topologySpreadConstraints=[{"maxSkew": 1}]),
    ),
    "toleration seconds zero": (
        pod_spec(tolerations=[{"key": "k", "tolerationSeconds": 0}]),
        pod_spec(tolerations=[{"key": "k"}]),
    ),
    "root user": (
        container(securityContext={"runAsUser": 0}),
        container(securityContext={}),
    ),
    "grace of zero": (pod_spec(terminationGracePeriodSeconds=0), pod_spec()),
    "no service links": (pod_spec(enableServiceLinks=False), pod_spec()),
    "host users false": (pod_spec(hostUsers=False), pod_spec()),
    "selector value empty": (pod_spec(nodeSelector={"disk": ""}), pod_spec()),
    "port as text": (
        container(livenessProbe={"httpGet": {"port": "80"}}),
        container(livenessProbe={"httpGet": {"port": 80}}),
    ),
    "boolean as text": (pod_spec(hostNetwork=True), pod_spec(hostNetwork="true")),
    "udp": (
        container(ports=[{"containerPort": 80, "protocol": "UDP"}]),
        container(ports=[{"containerPort": 80}]),
    ),
    "order of args": (container(args=["a", "b"]), container(args=["b", "a"])),
    "order of env": (
        container(env=[{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)"}]),
        container(env=[{"name": "B", "value": "$(A)"}, {"name": "A", "value": "1"}]),
    ),
    "empty argument": (container(args=[""]), container()),
    "indirect env": (
        container(env=[{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]),
        container(env=[{"name": "A"}]),
    ),
    "limit of zero": (container(resources={"limits": {"cpu": "0"}}), container()),
}
NAMES = ["labels", "tolerations", "emptyDir", "limits", "cpu", "key", "hostPort", "tty", "overhead"]
VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("pair", SAME.values(), ids=SAME)
def test_same_meaning_has_one_form(pair: tuple[Any, Any]) -> None:
    assert normalise_pod_spec(pair[0]) == normalise_pod_spec(pair[1])


@pytest.mark.parametrize("pair", DIFFERENT.values(), ids=DIFFERENT)
def test_different_meaning_stays_different(pair: tuple[Any, Any]) -> None:
    assert normalise_pod_spec(pair[0]) != normalise_pod_spec(pair[1])


@pytest.mark.parametrize(
    "spec", [pod_spec(priority=1.5), container(resources={"limits": {"cpu": 0.5}})]
)
def test_fractions_are_refused(spec: Any) -> None:
    with pytest.raises(RejectedError, match="want an integer"):
        normalise_pod_spec(spec)


@given(st.data())
def test_defect_16_tolerations_have_a_total_order(data: st.DataObject) -> None:
    toleration = st.fixed_dictionaries(
        {},
        optional={
            "key": st.sampled_from(["a", "b", ""]),
            "operator": st.sampled_from(["Exists", "Equal"]),
            "value": st.sampled_from(["v", "w"]),
            "effect": st.sampled_from(["NoSchedule", "NoExecute", ""]),
            "tolerationSeconds": st.sampled_from([None, 0, 1, -1]),
        },
    )
    listed = data.draw(st.lists(toleration, max_size=6))
    shuffled = list(listed)
    random.Random(data.draw(st.integers(0, 9))).shuffle(shuffled)
    first = normalise_pod_spec(pod_spec(tolerations=listed))
    assert first == normalise_pod_spec(pod_spec(tolerations=shuffled))


def test_missing_seconds_come_before_present_ones() -> None:
    seconds = [{"key": "k", "tolerationSeconds": n} for n in (5, 0)]
    normal = normalise_pod_spec(pod_spec(tolerations=[*seconds, {"key": "k"}]))
    assert [t.get("tolerationSeconds") for t in normal["tolerations"]] == [None, 0, 5]


@given(st.dictionaries(st.sampled_from(["nodeName", "tolerations", "containers", "x"]), VALUES))
def test_defect_47_input_is_never_altered(spec: dict[str, Any]) -> None:
    before = copy.deepcopy(spec)
    normal = normalise_pod_spec(spec)
    assert spec == before
    for value in normal.values():
        if isinstance(value, dict | list):
            value.clear()
    assert spec == before


@given(st.dictionaries(st.sampled_from(["tolerations", "containers", "volumes"]), VALUES))
def test_a_normal_form_is_its_own(spec: dict[str, Any]) -> None:
    once = normalise_pod_spec(spec)
    assert normalise_pod_spec(once) == once


@pytest.mark.parametrize(
    "key",
    [
        "agents.x-k8s.io/sandbox-template-ref-hash",
        "agents.x-k8s.io/warm-pool-sandbox",
        "agents.x-k8s.io/claim-uid",
        "runtime.agentcube.io/session-id",
        "runtime.agentcube.io/sandbox-name",
        "agentcube.volcano.sh/snapshot-key",
        "cluster-autoscaler.kubernetes.io/safe-to-evict",
        "kuasar.io/snapshot-type",
        "kuasar.io/task-id",
    ],
)
def test_what_marks_a_session_is_left_out(key: str) -> None:
    assert normalise_metadata({key: "x", "app": "y"}) == {"app": "y"}


@pytest.mark.parametrize(
    "key",
    [
        "agents.x-k8s.io",
        "kuasar.io/anything-else",
        "xagents.x-k8s.io/a",
        "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes",
    ],
)
def test_any_other_label_counts(key: str) -> None:
    assert normalise_metadata({key: "x"}) == {key: "x"}


def test_claim_without_a_storage_class_is_not_one_with_the_default() -> None:
    none = normalise_claims([{"spec": {"storageClassName": ""}}])
    assert none != normalise_claims([{"spec": {}}])
