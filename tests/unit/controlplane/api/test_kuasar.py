"""What Kuasar is told of builds and sessions, and what its sandboxers and our guest make of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agentd.guest.prepare import Plan, parse_prepare
from agentd.kuasar.client import Form
from controlplane.api import names
from controlplane.api.kuasar import (
    SessionIdentity,
    is_kuasar,
    session_annotations,
    validate_kuasar_class,
)
from controlplane.api.types import SnapshotClass
from controlplane.sessions.session import is_restore_annotation
from controlplane.snapshots.normalise import is_volatile
from tests.fakes.kuasar.sandboxer import Config, RefusedError, Sandboxer

EXAMPLES = Path(__file__).parents[4] / "deploy" / "kubernetes" / "examples"
MARK = {names.KUASAR_READY_VERSION: "1"}
SELECTORS = [
    "kuasar.io/snapshot-type",
    "kuasar.io/template-key",
    "kuasar.io/template-id",
    "kuasar.io/pod-uid",
    "kuasar.io/workload-generation",
]
IDENTITY = SessionIdentity("team-a", "session-1", "5f0c")
KEY = "python-ready-0123456789-fork-g1-r1"

identities = st.builds(SessionIdentity, st.text(), st.text(), st.text())


def a_class(
    build: dict[str, str] | None = None, provider: str = "snapstart.kuasar.io"
) -> SnapshotClass:
    spec = {"providerName": provider, "supportedSnapshotModes": ["Fork"]}
    if build is not None:
        spec["buildPodAnnotations"] = build  # type: ignore[assignment]
    return msgspec.convert({"metadata": {"name": "c"}, "spec": spec}, SnapshotClass)


def told(
    identity: SessionIdentity = IDENTITY, build: dict[str, str] | None = None
) -> dict[str, str]:
    return session_annotations(a_class({**MARK, **(build or {})}), KEY, identity)


def plan_of(annotations: dict[str, str]) -> Plan:
    """What our guest makes of the PREPARE that a sandboxer composes of a Pod's annotations."""
    message = {
        "type": "PREPARE",
        "task_id": annotations[names.KUASAR_TASK_ID],
        "context": annotations[names.KUASAR_TASK_CONTEXT],
        "env_overrides": {},
    }
    return parse_prepare(message, workspace_root="/workspace")


# -- what a session says ------------------------------------------------------------------


def test_a_session_names_its_template_and_whose_it_is() -> None:
    context = {"session_id": "5f0c", "metadata": {"namespace": "team-a", "pod": "session-1"}}
    found = told()
    assert json.loads(found.pop("kuasar.io/task-context")) == context
    assert found == {"kuasar.io/template-key": KEY, "kuasar.io/task-id": "5f0c"}


def test_what_a_build_says_of_its_sockets_is_said_again() -> None:
    repeated = {
        "kuasar.io/warm-fork-readiness-socket": "/run/inject.sock",
        "kuasar.io/warm-fork-containers": "code,helper",
    }
    found = told(build={**repeated, "kuasar.io/other": "x", "example.org/a": "b"})
    assert repeated.items() <= found.items()
    assert found.keys() == told().keys() | repeated.keys()


def test_the_name_of_the_provider_is_the_operators_own() -> None:
    named = session_annotations(a_class(MARK, "snapshots.example.org"), KEY, IDENTITY)
    assert named == told()


@pytest.mark.parametrize(
    "build", [None, {}, {"example.org/a": "b"}], ids=["none", "empty", "other"]
)
def test_a_class_that_is_not_kuasars_says_nothing_more(build: dict[str, str] | None) -> None:
    other = a_class(build, "snapstart.qemu.org")
    assert not is_kuasar(other)
    assert session_annotations(other, KEY, IDENTITY) == {}


@given(identities, st.dictionaries(st.sampled_from([*SELECTORS, *MARK, "a"]), st.text()))
def test_nothing_that_can_fail_a_pod_is_ever_said(
    identity: SessionIdentity, build: dict[str, str]
) -> None:
    found = session_annotations(a_class({**build, **MARK}), KEY, identity)
    assert found[names.KUASAR_TEMPLATE_KEY] == KEY
    assert not {"kuasar.io/snapshot-type", "kuasar.io/template-id", "kuasar.io/pod-uid"} & set(
        found
    )
    for name in found:
        assert re.fullmatch(r"kuasar\.io/[a-z-]{1,63}", name), "Kubernetes takes one slash"
        assert is_restore_annotation(name), "a stranger's value must go"


# -- whose it is ----------------------------------------------------------------------------


def test_our_guest_takes_its_identity_and_nothing_it_has_no_rights_for() -> None:
    assert plan_of(told()) == Plan(
        task_id="5f0c",
        session_id="5f0c",
        metadata={"namespace": "team-a", "pod": "session-1"},
    )


def test_a_sandbox_that_belongs_to_no_session_goes_by_its_name() -> None:
    assert plan_of(told(SessionIdentity("team-a", "browser-1"))).session_id == "browser-1"


def test_a_session_without_a_name_yet_goes_by_its_id() -> None:
    plan = plan_of(told(SessionIdentity("team-a", session_id="5f0c")))
    assert (plan.session_id, plan.metadata) == ("5f0c", {"namespace": "team-a"})


@pytest.mark.parametrize(
    "session_id", ["", "two words", "ümlaut", "line\n", "x" * 254], ids=str.__len__
)
def test_who_is_not_known_is_not_told(session_id: str) -> None:
    assert told(SessionIdentity("team-a", session_id=session_id)) == {"kuasar.io/template-key": KEY}


@given(identities)
def test_our_guest_refuses_no_identity_that_it_is_given(identity: SessionIdentity) -> None:
    found = told(identity)
    if names.KUASAR_TASK_ID in found:
        assert plan_of(found).session_id == found[names.KUASAR_TASK_ID]
    else:
        assert names.KUASAR_TASK_CONTEXT not in found


# -- what a sandboxer makes of it -------------------------------------------------------------


async def start(annotations: dict[str, str], form: Form, *keys: str, **config: Any) -> bool:
    """Whether a Pod with them was restored, on a node that has templates of these keys."""
    sandboxer = Sandboxer(Config(resolver_keys=(names.SNAPSHOT_KEY,), **config))
    for key in keys:
        await sandboxer.create_fork(sandboxer.run("build"), key)
    return sandboxer.start("pod-1", {names.SNAPSHOT_KEY: KEY, **annotations}, form).is_forked


@pytest.mark.parametrize("form", Form, ids=lambda form: form.name)
async def test_a_template_that_is_there_is_restored(form: Form) -> None:
    assert await start(told(), form, "another", KEY)


@pytest.mark.parametrize("form", Form, ids=lambda form: form.name)
@pytest.mark.parametrize(
    "config",
    [{}, {"has_fork_restores": False}, {"has_continuations": True}, {"has_pool": False}],
    ids=lambda config: "-".join(config) or "default",
)
async def test_a_template_that_is_missing_starts_the_pod_cold(
    config: dict[str, bool], form: Form
) -> None:
    assert not await start(told(), form, **config)


@pytest.mark.parametrize(
    ("name", "form"),
    [("kuasar.io/snapshot-type", Form.JSON), ("kuasar.io/template-id", Form.GRPC)],
    ids=["type", "id"],
)
async def test_what_is_left_out_would_fail_such_a_pod(name: str, form: Form) -> None:
    """Else the test before could not fail."""
    with pytest.raises(RefusedError):
        await start({**told(), name: "warm-fork"}, form)


# -- what nobody else may say -------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        *SELECTORS,
        "kuasar.io/task-id",
        "kuasar.io/task-env/HOME",
        "kuasar.io/container/code/task-context",
        "kuasar.io/warm-fork-containers",
    ],
)
def test_what_restores_is_taken_off_sessions_and_never_hashed(key: str) -> None:
    assert is_restore_annotation(key)
    assert is_volatile(key)
    assert key.startswith(names.PROVIDER_RESTORE_PREFIXES)


@given(st.sampled_from([*names.PROVIDER_RESTORE_PREFIXES, "kuasar.io/"]), st.text(max_size=3))
def test_sessions_and_their_hash_agree_on_what_restores(name: str, more: str) -> None:
    """A key that only one of them leaves out would start its sessions cold for ever."""
    assert is_restore_annotation(name + more) == is_volatile(name + more)


# -- what a class may say -------------------------------------------------------------------------


def test_the_example_class_is_fine() -> None:
    body = yaml.safe_load((EXAMPLES / "snapshotclass-kuasar.yaml").read_text())
    example = msgspec.convert(body, SnapshotClass)
    assert is_kuasar(example)
    assert validate_kuasar_class(example) == []


@pytest.mark.parametrize("provider", ["snapstart.kuasar.io", "snapstart.qemu.org"])
@pytest.mark.parametrize("name", SELECTORS)
def test_no_class_makes_its_builds_restore(name: str, provider: str) -> None:
    [problem] = validate_kuasar_class(a_class({**MARK, name: "x"}, provider))
    assert problem.field == f"spec.buildPodAnnotations[{name}]"
    assert "remove it" in problem.message


@pytest.mark.parametrize("provider", ["snapstart.kuasar.io", "kuasar-vmm-snapshot"])
@pytest.mark.parametrize("build", [None, {}, {names.KUASAR_READY_VERSION: "v1"}], ids=str)
def test_a_class_whose_builds_kuasar_would_not_snapshot_is_refused(
    build: dict[str, str] | None, provider: str
) -> None:
    [problem] = validate_kuasar_class(a_class(build, provider))
    assert problem.field == f"spec.buildPodAnnotations[{names.KUASAR_READY_VERSION}]"
    assert '"1"' in problem.message


def test_a_wrong_version_is_refused_under_any_name() -> None:
    wrong = a_class({names.KUASAR_READY_VERSION: "2"}, "snapshots.example.org")
    assert len(validate_kuasar_class(wrong)) == 1


def test_other_classes_need_no_mark() -> None:
    assert validate_kuasar_class(a_class(None, "snapstart.qemu.org")) == []
    assert validate_kuasar_class(a_class({"kuasar.io/other": "x"}, "snapstart.qemu.org")) == []
