"""The cluster commands, without a cluster or on one in memory."""

from __future__ import annotations

import asyncio
import json
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from agentd.cli.cluster import Where, translate
from agentd.cli.progress import StageProgress
from agentd.cli.snapctl import snapctl
from agentd.cli.snapctl_snapshot import _describe, _follow, _force, _remove
from agentd.cli.snapctl_why import _explain
from agentd.cli.snapshots import Rebuild, RebuildState, detail_table, judge_rebuild, list_table
from agentd.cli.tables import format_plain
from agentd.cli.why import Start
from agentd.errors import ErrorCode, PermanentError, TransientError
from controlplane import errors
from controlplane.api import names
from controlplane.api.meta import JsonObject
from controlplane.api.types import SandboxSnapshot
from controlplane.kube.resource import EVENTS, PODS, SNAPSHOTS, TASKS, sandboxes
from tests.fakes.kube import FakeKube

NOW = datetime(2030, 1, 1, tzinfo=UTC)
EARLIER, LATER = NOW - timedelta(hours=1), NOW + timedelta(minutes=1)
SOURCE = {"apiGroup": names.EXTENSIONS_GROUP, "kind": "SandboxTemplate", "name": "python"}


def a_body(*, force: bool = False, rebuilding: bool = False, **status: Any) -> JsonObject:
    conditions = [{"type": "Rebuilding", "status": "True"}] if rebuilding else []
    annotations = {names.FORCE_REBUILD: "now"} if force else {}
    return {
        "metadata": {
            "name": "py",
            "namespace": "team",
            "annotations": annotations,
            "creationTimestamp": EARLIER,
        },
        "spec": {"snapshotMode": "Fork", "sourceRef": SOURCE, "snapshotClassName": "qemu"},
        "status": {"conditions": conditions, **status},
    }


def a_snapshot(**more: Any) -> SandboxSnapshot:
    return msgspec.convert(a_body(**more), SandboxSnapshot)


STATES: dict[str, tuple[SandboxSnapshot, bool, RebuildState]] = {
    "asked": (a_snapshot(force=True, phase="Ready", readyAt=EARLIER), False, RebuildState.ASKED),
    "taken up": (a_snapshot(phase="Ready", readyAt=EARLIER), False, RebuildState.ASKED),
    "building beside": (
        a_snapshot(phase="Ready", readyAt=EARLIER, rebuilding=True),
        False,
        RebuildState.BUILDING,
    ),
    "building first": (a_snapshot(phase="Creating"), False, RebuildState.BUILDING),
    "new": (a_snapshot(phase="Ready", readyAt=LATER), True, RebuildState.READY),
    "given up": (a_snapshot(phase="Ready", readyAt=EARLIER), True, RebuildState.FAILED),
    "failed": (a_snapshot(phase="Failed"), False, RebuildState.FAILED),
}


@pytest.mark.parametrize("case", STATES)
def test_a_rebuild_is_followed_by_the_time_of_becoming_ready(case: str) -> None:
    snapshot, was_building, state = STATES[case]
    assert judge_rebuild(snapshot, Rebuild(EARLIER, was_building)) is state


def test_tables_tell_an_administrator_what_is_going_on() -> None:
    one = a_snapshot(
        force=True,
        phase="Ready",
        readyAt=EARLIER,
        targetNodeCount=3,
        readyNodeCount=2,
        failedNodeCount=1,
        message="node-c: no room",
    )
    text = format_plain(list_table([one, a_snapshot()], NOW))
    assert text.splitlines()[1].split()[:4] == ["team", "py", "Ready", "2/3"]
    detail = format_plain(detail_table(one, NOW))
    for part in ("3 wanted: 2 ready, 1 failed", "node-c: no room", "asked for, not begun"):
        assert part in detail
    assert "no snapshots; make one" in format_plain(list_table([], NOW))


def run(*args: str, kubeconfig: Path) -> Any:
    return CliRunner().invoke(snapctl, [*args, "--kubeconfig", str(kubeconfig)])


COMMANDS = [
    "snapshot create py --template python --class qemu",
    "snapshot ls",
    "snapshot describe py",
    "snapshot rebuild py --wait",
    "snapshot rm py",
    "why s1",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_without_credentials_every_command_says_which_file_is_missing(
    tmp_path: Path, command: str
) -> None:
    result = run(*command.split(), kubeconfig=tmp_path / "none")
    assert result.exit_code == ErrorCode.CONFIG_INVALID.exit_code
    assert str(tmp_path / "none") in result.stderr
    as_json = run(*command.split(), "--json", kubeconfig=tmp_path / "none")
    assert json.loads(as_json.stdout)["error"]["code"] == "config_invalid"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_server_that_is_away_is_named_with_what_to_do(tmp_path: Path, command: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        config = tmp_path / "config"
        config.write_text(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
            f"clusters: [{{name: c, cluster: {{server: '{url}'}}}}]\n"
            "users: [{name: u, user: {}}]\n"
            "contexts: [{name: c, context: {cluster: c, user: u}}]\n"
        )
        result = run(*command.split(), kubeconfig=config)
    assert result.exit_code == ErrorCode.CLUSTER_UNREACHABLE.exit_code, result.stderr
    assert "--context" in result.stderr


@pytest.mark.parametrize("text", ["59s", "1d", "-1h"])
def test_a_wrong_period_is_refused_before_anything_is_asked(tmp_path: Path, text: str) -> None:
    command = ("snapshot", "create", "py", "--template", "t", "--class", "c", "--rebuild-after")
    result = run(*command, text, kubeconfig=tmp_path / "none")
    assert result.exit_code == ErrorCode.REQUEST_INVALID.exit_code
    assert "rebuildAfter" in result.stderr


def test_each_failure_of_a_cluster_has_its_code() -> None:
    cases = {
        errors.ConfigError: ErrorCode.CONFIG_INVALID,
        errors.RejectedError: ErrorCode.REQUEST_INVALID,
        errors.NotFoundError: ErrorCode.OBJECT_NOT_FOUND,
        errors.AlreadyExistsError: ErrorCode.OBJECT_EXISTS,
        errors.ConflictError: ErrorCode.OBJECT_EXISTS,
        errors.ForbiddenError: ErrorCode.PERMISSION_DENIED,
        errors.UnavailableError: ErrorCode.CLUSTER_UNREACHABLE,
        errors.PeerError: ErrorCode.INTERNAL,
    }
    assert {kind: translate(kind("x")).code for kind in cases} == cases


@pytest.fixture
def kube() -> FakeKube:
    return FakeKube()


def put(kube: FakeKube, **more: Any) -> None:
    """A snapshot as the controller has left it."""
    body = a_body(**more)
    del body["metadata"]["creationTimestamp"]
    if not kube.cluster.objects(SNAPSHOTS):
        kube.cluster.create(SNAPSHOTS, body)
    annotations = {names.FORCE_REBUILD: None, **body["metadata"]["annotations"]}
    patch = {"metadata": {"annotations": annotations}}
    kube.cluster.merge(SNAPSHOTS, "py", patch, namespace="team")
    status = msgspec.to_builtins(body["status"])
    kube.cluster.merge(SNAPSHOTS, "py", {"status": status}, namespace="team", subresource="status")


async def follow(kube: FakeKube, begun: Rebuild, limit_s: float = 30.0) -> SandboxSnapshot:
    with StageProgress(is_quiet=True) as bar:
        return await _follow(kube, Where(namespace="team"), "py", begun, limit_s, bar)


async def test_a_rebuild_is_ordered_and_waited_for(kube: FakeKube) -> None:
    put(kube, phase="Ready", readyAt=EARLIER)
    before, after = await _force(kube, "py", "team")
    assert after.metadata.annotation(names.FORCE_REBUILD)
    assert before.status is not None
    waiting = asyncio.create_task(follow(kube, Rebuild(before.status.ready_at)))
    await asyncio.sleep(0.01)
    put(kube, phase="Ready", readyAt=LATER)
    found = await waiting
    assert found.status is not None
    assert found.status.ready_at == LATER


async def test_a_failed_rebuild_says_why_and_what_serves(kube: FakeKube) -> None:
    put(kube, phase="Ready", readyAt=EARLIER, message="node-a: no room")
    with pytest.raises(PermanentError, match="no room") as caught:
        await follow(kube, Rebuild(EARLIER, was_building=True))
    assert "serves on" in caught.value.hint
    put(kube, phase="Failed", message="no node")
    with pytest.raises(PermanentError, match="no node") as caught:
        await follow(kube, Rebuild(EARLIER))
    assert "serves on" not in caught.value.hint


async def test_waiting_ends_at_the_limit(kube: FakeKube) -> None:
    put(kube, phase="Creating")
    with pytest.raises(TransientError, match="not ready: building"):
        await follow(kube, Rebuild(None), limit_s=-1.0)


async def test_a_description_has_tasks_and_events_of_this_snapshot_alone(kube: FakeKube) -> None:
    put(kube, phase="Creating")
    [stored] = kube.cluster.objects(SNAPSHOTS)
    uid = stored["metadata"]["uid"]
    for number, label in enumerate((uid, "other")):
        reference = {"apiGroup": names.GROUP, "kind": "SandboxSnapshot", "name": "py"}
        spec = {
            "snapshotRef": reference,
            "snapshotUID": label,
            "snapshotMode": "Fork",
            "targetSandboxRef": {},
            "targetNodeName": "node-a",
            "providerName": "p",
            "snapshotKey": "k",
            "snapshotHash": "h",
        }
        meta = {"name": f"t{number}", "namespace": "team", "labels": {names.SNAPSHOT_UID: label}}
        kube.cluster.create(TASKS, {"metadata": meta, "spec": spec})
        event = {
            "metadata": {"name": f"e{number}", "namespace": "team"},
            "involvedObject": {"uid": label},
            "type": "Normal",
            "reason": f"R{number}",
            "message": "m",
            "count": 3,
        }
        kube.cluster.create(EVENTS, event)
    found = await _describe(kube, "py", "team")
    assert [task.metadata.name for task in found.tasks] == ["t0"]
    assert found.events == ["Normal R0: m (3 times)"]


async def test_a_server_that_asks_for_patience_gets_it(kube: FakeKube) -> None:
    put(kube)
    kube.fail_next("list", errors.UnavailableError("busy", delay_s=0.001), count=3)
    assert (await _describe(kube, "py", "team")).tasks == []
    kube.fail_next("list", errors.UnavailableError("away"))
    with pytest.raises(errors.UnavailableError, match="away"):
        await _describe(kube, "py", "team")
    kube.fail_next("list", errors.UnavailableError("busy", delay_s=0.001), count=100)
    with pytest.raises(errors.UnavailableError, match="busy"):
        await _describe(kube, "py", "team")


async def test_removing_waits_for_the_finalizer(kube: FakeKube) -> None:
    put(kube)
    told: list[str] = []
    kube.cluster.merge(
        SNAPSHOTS, "py", {"metadata": {"finalizers": [names.SNAPSHOT_FINALIZER]}}, namespace="team"
    )
    with pytest.raises(TransientError, match="still being deleted"):
        await _remove(kube, ["py"], "team", -1.0, told.append)
    kube.cluster.merge(SNAPSHOTS, "py", {"metadata": {"finalizers": []}}, namespace="team")
    put(kube)
    await _remove(kube, ["py"], "team", 10.0, told.append)
    assert told == ["removed py"]
    with pytest.raises(errors.NotFoundError):
        await _remove(kube, ["py"], "team", None, told.append)


async def test_why_reads_the_sandbox_its_pod_and_the_warnings(kube: FakeKube) -> None:
    annotations = {names.POD_NAME: "pod-1"}
    sandbox = {
        "metadata": {"name": "s1", "namespace": "team", "annotations": annotations},
        "spec": {"podTemplate": {"metadata": {"annotations": {names.SNAPSHOT_KEY: "k"}}}},
    }
    kube.cluster.create(sandboxes("v1beta1"), sandbox)
    assert (await _explain(kube, "s1", "team")).start is Start.STARTING
    pod = {
        "metadata": {
            "name": "pod-1",
            "namespace": "team",
            "annotations": {names.STARTED_FROM: "cold", names.STARTED_FROM_REASON: "wrong_mode"},
        },
        "spec": {"nodeName": "node-a"},
        "status": {"phase": "Running"},
    }
    kube.cluster.create(PODS, pod)
    about = {"kind": "Pod", "name": "pod-1"}
    event = {"involvedObject": about, "type": "Warning", "reason": "SandboxRestoreFallback"}
    kube.cluster.create(EVENTS, {"metadata": {"name": "e", "namespace": "team"}, **event})
    found = await _explain(kube, "s1", "team")
    assert (found.start, found.reason, found.node) == (Start.COLD, "wrong_mode", "node-a")
    assert found.events == ("SandboxRestoreFallback: ",)
