"""What the controller and the webhook refuse."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from controlplane.api import names
from controlplane.api.types import (
    SandboxSnapshot,
    SandboxSnapshotTask,
    SnapshotClass,
    SnapshotMode,
)
from controlplane.api.validation import (
    Problem,
    ProblemKind,
    describe_problems,
    validate_class,
    validate_pod_annotations,
    validate_snapshot,
    validate_task,
    validate_task_author,
)

FORK_SOURCE = {"apiGroup": names.EXTENSIONS_GROUP, "kind": "SandboxTemplate", "name": "python"}
RESUME_SOURCE = {"apiGroup": names.SANDBOX_GROUP, "kind": "Sandbox", "name": "s1"}
HASH = "sha256:" + "0" * 64


def a_snapshot(**spec: Any) -> SandboxSnapshot:
    base = {"snapshotMode": "Fork", "sourceRef": FORK_SOURCE, "snapshotClassName": "qemu"}
    body = {"metadata": {"name": "s"}, "spec": {**base, **spec}}
    return msgspec.convert(body, SandboxSnapshot)


def a_class(**spec: Any) -> SnapshotClass:
    base = {"providerName": "snapstart.qemu.org", "supportedSnapshotModes": ["Fork"]}
    body = {"metadata": {"name": "qemu"}, "spec": {**base, **spec}}
    return msgspec.convert(body, SnapshotClass)


def a_task(**spec: Any) -> SandboxSnapshotTask:
    base = {
        "snapshotRef": {"apiGroup": names.GROUP, "kind": "SandboxSnapshot", "name": "s"},
        "snapshotUID": "u1",
        "snapshotMode": "Fork",
        "targetSandboxRef": RESUME_SOURCE,
        "targetNodeName": "node-a",
        "providerName": "snapstart.qemu.org",
        "snapshotKey": "s-0123456789-fork-g1-r1",
        "snapshotHash": HASH,
    }
    return msgspec.convert(
        {"metadata": {"name": "t"}, "spec": {**base, **spec}}, SandboxSnapshotTask
    )


def fields(problems: list[Problem]) -> list[str]:
    return [problem.field for problem in problems]


def test_a_plain_fork_snapshot_is_fine_with_its_class_without_it_on_update() -> None:
    snapshot = a_snapshot(forkPolicy={"rebuildAfter": "24h"})
    assert validate_snapshot(snapshot) == []
    assert validate_snapshot(snapshot, a_class(), a_snapshot()) == []


def test_resume_is_refused_as_not_implemented_yet() -> None:
    [problem] = validate_snapshot(a_snapshot(snapshotMode="Resume", sourceRef=RESUME_SOURCE))
    assert problem.kind is ProblemKind.MODE_NOT_IMPLEMENTED
    assert "not implemented yet" in problem.message


def test_a_mode_that_the_class_lacks_is_named() -> None:
    only_resume = a_class(supportedSnapshotModes=["Resume"])
    [problem] = validate_snapshot(a_snapshot(), only_resume)
    assert problem.kind is ProblemKind.MODE_NOT_SUPPORTED
    assert str(problem) == "spec.snapshotMode: SnapshotClass 'qemu' supports Resume, not Fork"


BAD_SNAPSHOTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "fork of a sandbox": ({"sourceRef": RESUME_SOURCE}, ["spec.sourceRef"]),
    "fork of another group": (
        {"sourceRef": {**FORK_SOURCE, "apiGroup": names.SANDBOX_GROUP}},
        ["spec.sourceRef"],
    ),
    "no group": ({"sourceRef": {**FORK_SOURCE, "apiGroup": ""}}, ["spec.sourceRef"]),
    "no source name": ({"sourceRef": {**FORK_SOURCE, "name": ""}}, ["spec.sourceRef.name"]),
    "odd source name": ({"sourceRef": {**FORK_SOURCE, "name": "A/b"}}, ["spec.sourceRef.name"]),
    "no class": ({"snapshotClassName": ""}, ["spec.snapshotClassName"]),
    "resume of a template": ({"snapshotMode": "Resume"}, ["spec.snapshotMode", "spec.sourceRef"]),
    "resume with a policy": (
        {"snapshotMode": "Resume", "sourceRef": RESUME_SOURCE, "forkPolicy": {}},
        ["spec.snapshotMode", "spec.forkPolicy"],
    ),
}


@pytest.mark.parametrize("case", BAD_SNAPSHOTS)
def test_a_bad_snapshot_is_refused_at_the_field(case: str) -> None:
    spec, expected = BAD_SNAPSHOTS[case]
    assert fields(validate_snapshot(a_snapshot(**spec))) == expected


@pytest.mark.parametrize("text", ["", "1", "59s", "1d", "-2m", "soon", "99999999999999999h", "+1h"])
def test_a_bad_rebuild_period_is_refused(text: str) -> None:
    problems = validate_snapshot(a_snapshot(forkPolicy={"rebuildAfter": text}))
    assert fields(problems) == ["spec.forkPolicy.rebuildAfter"]


@pytest.mark.parametrize("text", ["1m", "60s", "1h30m", "1.5h", "60000ms", "8760h"])
def test_a_rebuild_period_of_a_minute_or_more_is_fine(text: str) -> None:
    assert validate_snapshot(a_snapshot(forkPolicy={"rebuildAfter": text})) == []


def test_mode_and_source_cannot_change_but_class_and_policy_can() -> None:
    old = a_snapshot()
    moved = a_snapshot(sourceRef={**FORK_SOURCE, "name": "other"})
    assert fields(validate_snapshot(moved, None, old)) == ["spec.sourceRef"]
    resumed = a_snapshot(snapshotMode="Resume", sourceRef=RESUME_SOURCE)
    assert "spec.snapshotMode: snapshotMode cannot be changed" in describe_problems(
        validate_snapshot(resumed, None, old)
    )
    other = a_snapshot(snapshotClassName="kuasar", forkPolicy={"rebuildOnSourceChange": False})
    assert validate_snapshot(other, None, old) == []


def test_a_class_may_not_lose_a_mode_that_is_in_use() -> None:
    new = a_class(supportedSnapshotModes=["Resume"])
    assert validate_class(new, a_class()) == []
    [problem] = validate_class(new, a_class(), {SnapshotMode.FORK})
    assert "live snapshots use Fork" in problem.message


BAD_CLASSES: dict[str, tuple[dict[str, Any], str]] = {
    "empty provider": ({"providerName": ""}, "spec.providerName"),
    "long provider": ({"providerName": "a" * 46}, "spec.providerName"),
    "upper-case provider": ({"providerName": "Kuasar"}, "spec.providerName"),
    "double dot": ({"providerName": "a..b"}, "spec.providerName"),
    "trailing line feed": ({"providerName": "a\n"}, "spec.providerName"),
    "no modes": ({"supportedSnapshotModes": []}, "spec.supportedSnapshotModes"),
    "twice": ({"supportedSnapshotModes": ["Fork", "Fork"]}, "spec.supportedSnapshotModes"),
    "selector value": ({"nodeSelector": {"zone": "a b"}}, "spec.nodeSelector[zone]"),
    "selector key": ({"nodeSelector": {"/zone": "a"}}, "spec.nodeSelector[/zone]"),
    "our annotation": (
        {"buildPodAnnotations": {names.SNAPSHOT_KEY: "k"}},
        f"spec.buildPodAnnotations[{names.SNAPSHOT_KEY}]",
    ),
    "annotation key": ({"buildPodAnnotations": {"a b": ""}}, "spec.buildPodAnnotations[a b]"),
}


@pytest.mark.parametrize("case", BAD_CLASSES)
def test_a_bad_class_is_refused_at_the_field(case: str) -> None:
    spec, expected = BAD_CLASSES[case]
    assert fields(validate_class(a_class(**spec))) == [expected]


def test_a_class_with_everything_is_fine() -> None:
    full = a_class(
        providerName="a" * 45,
        supportedSnapshotModes=["Fork", "Resume"],
        nodeSelector={"topology.kubernetes.io/zone": "a", "empty": ""},
        buildPodAnnotations={"kuasar.io/snapshot-type": "template"},
    )
    assert validate_class(full, full, {SnapshotMode.FORK}) == []


def test_the_provider_of_a_class_cannot_change() -> None:
    problems = validate_class(a_class(providerName="other.org"), a_class())
    assert fields(problems) == ["spec.providerName"]


BAD_TASKS: dict[str, tuple[dict[str, Any], str]] = {
    "no sandbox": ({"targetSandboxRef": {}}, "spec.targetSandboxRef"),
    "a pod": ({"targetSandboxRef": {**RESUME_SOURCE, "kind": "Pod"}}, "spec.targetSandboxRef"),
    "other owner": ({"snapshotRef": RESUME_SOURCE}, "spec.snapshotRef"),
    "resume": ({"snapshotMode": "Resume"}, "spec.snapshotMode"),
    "no node": ({"targetNodeName": ""}, "spec.targetNodeName"),
    "no key": ({"snapshotKey": ""}, "spec.snapshotKey"),
    "path as key": ({"snapshotKey": "../x"}, "spec.snapshotKey"),
    "long key": ({"snapshotKey": "k" * 64}, "spec.snapshotKey"),
    "no hash": ({"snapshotHash": ""}, "spec.snapshotHash"),
    "no UID": ({"snapshotUID": ""}, "spec.snapshotUID"),
    "provider": ({"providerName": "no provider"}, "spec.providerName"),
}


@pytest.mark.parametrize("case", BAD_TASKS)
def test_a_bad_task_is_refused_at_the_field(case: str) -> None:
    spec, expected = BAD_TASKS[case]
    assert expected in fields(validate_task(a_task(**spec)))


@pytest.mark.parametrize("operation", ["Delete", "Inspect"])
def test_only_a_create_task_needs_a_sandbox(operation: str) -> None:
    assert validate_task(a_task(operation=operation, targetSandboxRef={})) == []


def test_a_task_never_changes() -> None:
    assert validate_task(a_task(), a_task()) == []
    assert fields(validate_task(a_task(operation="Delete"), a_task())) == ["spec"]


def test_only_the_controller_makes_tasks() -> None:
    controller = "system:serviceaccount:agentcube-system:snapstart-controlplane"
    assert validate_task_author(controller, {controller}) == []
    [problem] = validate_task_author("eve", {controller})
    assert "'eve' is not it" in problem.message


@pytest.mark.parametrize(
    "key",
    [names.SNAPSHOT_KEY, "kuasar.io/template-key", "kuasar.io/task-env/X", "kuasar.io/task-id"],
)
def test_nobody_may_choose_what_a_pod_restores(key: str) -> None:
    [problem] = validate_pod_annotations({key: "v", "team": "a"}, "spec.template.annotations")
    assert problem.field == f"spec.template.annotations[{key}]"
    assert validate_pod_annotations(None, "x") == []
