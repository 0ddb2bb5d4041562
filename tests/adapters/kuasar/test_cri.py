"""The container runtime says which sandbox is a Pod's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentd.errors import ErrorCode, PeerError, SnapStartError, TransientError, UsageError
from agentd.kuasar.client import PodRef
from agentd.kuasar.cri import Cri
from agentd.kuasar.pb import cri_pb2
from tests.fakes.kuasar.cri import FakeCri
from tests.fakes.kuasar.faults import Abort
from tests.fakes.kuasar.sandboxer import Sandboxer

POD = PodRef("uid-1", "team", "build-1")
ABOUT_POD = r"asking the container runtime for the sandbox of Pod team/build-1 \(uid-1\)"


class Node:
    """A runtime and one who asks it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sandboxer = Sandboxer()
        self.runtime = FakeCri(self.sandboxer)
        self.cri = Cri(path, call_s=5.0)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(tmp_path / "containerd.sock")
    async with made.runtime.serving(made.path):
        yield made


async def test_a_pod_has_its_sandbox(node: Node) -> None:
    mine = node.sandboxer.run(POD.uid)
    node.sandboxer.run("uid-2")
    assert await node.cri.sandbox_of(POD) == mine.id


async def test_the_pod_is_told_by_its_uid_not_by_its_name(node: Node) -> None:
    """A Pod that is made again has its name, but is another."""
    node.sandboxer.run("uid-0", namespace="team", name="build-1")
    with pytest.raises(TransientError, match=f"{ABOUT_POD}: it has none that is ready") as caught:
        await node.cri.sandbox_of(POD)
    assert caught.value.code is ErrorCode.GUEST_NOT_READY


async def test_of_two_the_later_attempt_counts(node: Node) -> None:
    first, second = node.sandboxer.run(POD.uid), node.sandboxer.run(POD.uid)
    node.runtime.attempts = {first.id: 1, second.id: 0}
    assert await node.cri.sandbox_of(POD) == first.id


async def test_of_two_of_one_attempt_the_newer_counts(node: Node) -> None:
    node.sandboxer.run(POD.uid)
    newer = node.sandboxer.run(POD.uid)
    assert await node.cri.sandbox_of(POD) == newer.id


async def test_one_that_has_ended_does_not_count(node: Node) -> None:
    node.sandboxer.run(POD.uid, status="stopped")
    with pytest.raises(TransientError, match="none that is ready"):
        await node.cri.sandbox_of(POD)
    assert await node.cri.pod_uids() == {}


async def test_a_pod_without_uid_is_not_asked_for(node: Node) -> None:
    """An empty filter would match every Pod's."""
    node.sandboxer.run(POD.uid)
    with pytest.raises(UsageError, match="UID"):
        await node.cri.sandbox_of(PodRef("", "team", "build-1"))
    assert not node.runtime.calls


async def test_every_live_sandbox_has_its_pod(node: Node) -> None:
    one, two = node.sandboxer.run("uid-1"), node.sandboxer.run("uid-2", status="paused")
    node.sandboxer.run("uid-3", status="stopped")
    other = cri_pb2.PodSandbox(id="runc", metadata=cri_pb2.PodSandboxMetadata(uid="uid-4"))
    node.runtime.others.append(other)
    assert await node.cri.pod_uids() == {one.id: "uid-1", two.id: "uid-2", "runc": "uid-4"}


async def test_a_recovering_sandboxer_does_not_matter(node: Node) -> None:
    mine = node.sandboxer.run(POD.uid)
    node.sandboxer.is_recovered = False
    assert await node.cri.sandbox_of(POD) == mine.id


# -- what may come back ---------------------------------------------------------------------------


def listed(*items: cri_pb2.PodSandbox) -> bytes:
    return cri_pb2.ListPodSandboxResponse(items=items).SerializeToString()


async def test_what_was_not_asked_for_is_left_out(node: Node) -> None:
    """A runtime may ignore a filter that it does not know."""
    other = cri_pb2.PodSandboxMetadata(uid="uid-2")
    mine = cri_pb2.PodSandboxMetadata(uid=POD.uid)
    unready = cri_pb2.SANDBOX_NOTREADY
    items = [
        cri_pb2.PodSandbox(id="other", metadata=other),
        cri_pb2.PodSandbox(id="nobody's"),
        cri_pb2.PodSandbox(id="ended", metadata=mine, state=unready, created_at=9),
        cri_pb2.PodSandbox(id="odd", metadata=mine, state=77, created_at=9),  # type: ignore[arg-type]
        cri_pb2.PodSandbox(id="mine", metadata=mine),
    ]
    node.runtime.faults.calls.append(listed(*items))
    assert await node.cri.sandbox_of(POD) == "mine"


@pytest.mark.parametrize("reply", [b"\xff" * 100, b"\x0a\x7f", b"\x0a\x04\x0a\x02\xff\xfe"])
async def test_an_answer_that_is_none_is_an_error(node: Node, reply: bytes) -> None:
    node.runtime.faults.calls.append(reply)
    with pytest.raises(PeerError, match=f"{ABOUT_POD}: the container runtime sent") as caught:
        await node.cri.sandbox_of(POD)
    assert caught.value.code is ErrorCode.PROVIDER_PROTOCOL


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Abort("out of order"), ErrorCode.PROVIDER_FAILED),
        (Abort("not found", "NOT_FOUND"), ErrorCode.PROVIDER_FAILED),
        (Abort("unknown service runtime.v1", "UNIMPLEMENTED"), ErrorCode.PROVIDER_PROTOCOL),
        (Abort("starting", "UNAVAILABLE"), ErrorCode.PROVIDER_UNREACHABLE),
        ("drop", ErrorCode.PROVIDER_UNREACHABLE),
    ],
    ids=["refused", "not found", "too old", "starting", "lost"],
)
async def test_a_failure_is_never_an_absence(
    node: Node, fault: Abort | str, code: ErrorCode
) -> None:
    node.sandboxer.run(POD.uid)
    node.runtime.faults.calls.append(fault)
    with pytest.raises(SnapStartError, match=ABOUT_POD) as caught:
        await node.cri.sandbox_of(POD)
    assert caught.value.code is code
    assert "Kuasar" not in str(caught.value)


async def test_silence_ends_at_the_deadline(node: Node) -> None:
    node.runtime.faults.calls.append("hang")
    with pytest.raises(TransientError, match=r"within 0\.2 s") as caught:
        await Cri(node.path, call_s=0.2).pod_uids()
    assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED


async def test_an_absent_runtime_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="no such socket") as caught:
        await Cri(tmp_path / "none.sock").pod_uids()
    assert caught.value.code is ErrorCode.PROVIDER_UNREACHABLE
    assert "kuasar.cri_socket" in caught.value.hint
