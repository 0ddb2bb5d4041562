"""Calls to a page server that answers, refuses, dies, or is somebody else."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path

import pytest

from agentd.errors import (
    ConfigError,
    ErrorCode,
    InvariantError,
    PeerError,
    PermanentError,
    TransientError,
)
from agentd.pager.client import Pager, PagerClient
from agentd.wire.pager import HandOver, Listen, OffloadRestore, OffloadSave
from tests.fakes.kuasar.listener import listening
from tests.fakes.pager import FakePager, hand_over

DIGEST = "ab" * 32
REGIONS = [{"base_host_virt_addr": 1 << 32, "size": 8192, "offset": 0, "page_size": 4096}]
SHORT_S = 0.3


def client(pager: FakePager, *, call_s: float = 10.0) -> PagerClient:
    return PagerClient(pager.path, call_s=call_s)


def an_order(
    tmp_path: Path, vm: str = "s-1", protocol: HandOver = "firecracker", record: str = ""
) -> Listen:
    image = tmp_path / "image"
    image.write_bytes(b"x" * 4096)
    named = "" if protocol == "memfd" else str(image)
    return Listen(
        vm=vm,
        socket=str(tmp_path / f"{vm}.sock"),
        protocol=protocol,
        image=named,
        digest=DIGEST,
        record=record,
        uid=os.getuid(),
    )


async def served(pager: FakePager, tmp_path: Path, *, record: str = "") -> None:
    """A machine s-1 whose memory was handed over."""
    order = an_order(tmp_path, record=record)
    await client(pager).listen(order)
    await hand_over(order.socket, REGIONS)
    await client(pager).wait("s-1", deadline_s=10.0)


def test_it_is_a_pager() -> None:
    pager: Pager = PagerClient(Path("/nowhere"))
    assert isinstance(pager, PagerClient)


async def test_it_says_who_it_is(pager: FakePager) -> None:
    about = await client(pager).hello()
    assert (about.version, about.pid, about.machines) == ("9.9", os.getpid(), 0)


async def test_a_machine_is_served_once_its_memory_was_handed_over(
    pager: FakePager, tmp_path: Path
) -> None:
    order = an_order(tmp_path)
    await client(pager).listen(order)
    waiting = asyncio.create_task(client(pager).wait("s-1", deadline_s=10.0))
    await hand_over(order.socket, REGIONS)
    serving = await waiting
    assert (serving.vm, serving.pid, serving.pages) == ("s-1", os.getpid(), 2)
    assert (serving.method, serving.why, serving.kept_by) == ("install-before", "a test", "vmm")


async def test_an_order_carries_every_member(pager: FakePager, tmp_path: Path) -> None:
    await client(pager).listen(an_order(tmp_path, record="/r"))
    assert pager.requests == [
        {
            "op": "listen",
            "vm": "s-1",
            "socket": str(tmp_path / "s-1.sock"),
            "protocol": "firecracker",
            "image": str(tmp_path / "image"),
            "digest": DIGEST,
            "working_set": "",
            "record": "/r",
            "uid": os.getuid(),
        }
    ]


async def test_a_memfd_comes_as_a_second_descriptor(pager: FakePager, tmp_path: Path) -> None:
    order = an_order(tmp_path, protocol="memfd")
    await client(pager).listen(order)
    await hand_over(order.socket, REGIONS, fds=2)
    assert (await client(pager).wait("s-1", deadline_s=10.0)).regions == 1


async def test_statistics_are_those_of_every_machine(pager: FakePager, tmp_path: Path) -> None:
    await served(pager, tmp_path)
    await client(pager).listen(an_order(tmp_path, "s-2"))
    pager.facts["s-1"] = {"faults": 5, "prefetched": 15, "covered": 0.75, "stalls": 1}
    pager.stopped.append({"vm": "s-0", "reason": "its image was cut"})
    stats = await client(pager).stats()
    first, second = stats.machines
    assert (first.vm, first.state, first.faults, first.covered) == ("s-1", "serving", 5, 0.75)
    assert (second.vm, second.state, second.covered, second.pid) == ("s-2", "listening", None, 0)
    assert [(one.vm, one.reason) for one in stats.stopped] == [("s-0", "its image was cut")]


async def test_a_record_is_written_at_its_end(pager: FakePager, tmp_path: Path) -> None:
    await served(pager, tmp_path, record=str(tmp_path / "record"))
    recording = await client(pager).end_recording("s-1", deadline_s=10.0)
    assert (recording.touches, recording.written) == (7, 3)
    assert (tmp_path / "record").exists()


async def test_forgetting_ends_what_is_left_and_may_be_repeated(
    pager: FakePager, tmp_path: Path
) -> None:
    order = an_order(tmp_path)
    await client(pager).listen(order)
    await client(pager).forget("s-1")
    await client(pager).forget("s-1")
    assert (await client(pager).stats()).machines == []
    assert not (tmp_path / "s-1.sock").exists()


# -- offloads -----------------------------------------------------------------------------------


def an_offload(vm: str = "s-1") -> OffloadRestore:
    return OffloadRestore(vm, "/run/s-1.sock", "/t/memory", "/t/config", "/t/state", DIGEST)


async def test_a_session_with_a_monitor_is_begun_with_every_member(pager: FakePager) -> None:
    await client(pager).offload(an_offload())
    assert pager.requests == [
        {
            "op": "offload_restore", "vm": "s-1", "socket": "/run/s-1.sock", "image": "/t/memory",
            "config": "/t/config", "state": "/t/state", "digest": DIGEST, "working_set": "",
            "record": "", "uid": 0, "demand_only": False, "resume": False,
        }
    ]  # fmt: skip
    assert (await client(pager).wait("s-1", deadline_s=10.0)).vm == "s-1"


async def test_a_machine_is_saved(pager: FakePager) -> None:
    await client(pager).offload(OffloadSave("s-1", "/run/s", "/t/memory", "/t/config", "/t/state"))
    assert pager.requests[0]["op"] == "offload_save"


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_session_is_begun_anew_by_the_next_page_server(pager: FakePager, when: str) -> None:
    pager.dies["offload_restore"] = when
    await client(pager).offload(an_offload())
    assert pager.deaths == 1
    assert list(pager.machines) == ["s-1"]


async def test_a_session_that_was_begun_although_its_answer_was_lost_stands(
    pager: FakePager, tmp_path: Path
) -> None:
    asked = 0

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        answer = await pager.answer(json.loads(await reader.readline()))
        asked += 1
        if asked > 1:
            writer.write(answer or b"")
            await writer.drain()

    async with listening(tmp_path / "relay.sock", relay):
        await PagerClient(tmp_path / "relay.sock").offload(an_offload())
    assert asked == 2


async def test_a_second_session_of_one_name_is_our_own_mistake(pager: FakePager) -> None:
    await client(pager).offload(an_offload())
    with pytest.raises(InvariantError):
        await client(pager).offload(an_offload())


# -- refusals -----------------------------------------------------------------------------------


async def test_a_machine_that_nobody_knows_is_to_be_started_anew(pager: FakePager) -> None:
    with pytest.raises(TransientError, match="never heard of it") as caught:
        await client(pager).wait("s-1", deadline_s=10.0)
    assert "start it anew" in caught.value.hint


async def test_a_machine_that_was_stopped_says_why(pager: FakePager, tmp_path: Path) -> None:
    await served(pager, tmp_path)
    await pager.stop_machine("s-1", "its image was cut")
    with pytest.raises(PermanentError, match="its image was cut"):
        await client(pager).wait("s-1", deadline_s=10.0)


async def test_a_hand_over_without_a_descriptor_stops_the_machine(
    pager: FakePager, tmp_path: Path
) -> None:
    order = an_order(tmp_path)
    await client(pager).listen(order)
    await hand_over(order.socket, REGIONS, fds=0)
    with pytest.raises(PermanentError, match="0 descriptors"):
        await client(pager).wait("s-1", deadline_s=10.0)


async def test_a_hand_over_that_does_not_come_ends_at_the_waits_deadline(
    pager: FakePager, tmp_path: Path
) -> None:
    await client(pager).listen(an_order(tmp_path))
    pager.wait_most_s = 0.1
    with pytest.raises(TransientError, match="has not handed its memory over") as caught:
        await client(pager).wait("s-1", deadline_s=20.0)
    assert "start it anew" in caught.value.hint
    assert 0 < pager.requests[-1]["timeout_s"] < 20.0, "its own words come in time"


async def test_an_image_that_is_not_there_is_final(pager: FakePager, tmp_path: Path) -> None:
    order = an_order(tmp_path)
    (tmp_path / "image").unlink()
    with pytest.raises(PermanentError, match="no such file") as caught:
        await client(pager).listen(order)
    assert caught.value.code is ErrorCode.TEMPLATE_CORRUPT


async def test_a_second_machine_of_one_name_is_our_own_mistake(
    pager: FakePager, tmp_path: Path
) -> None:
    await client(pager).listen(an_order(tmp_path))
    with pytest.raises(InvariantError, match="there is a machine of that name"):
        await client(pager).listen(an_order(tmp_path, record="/r"))
    assert len(pager.machines) == 1


async def test_an_equal_order_is_granted_again(pager: FakePager, tmp_path: Path) -> None:
    await client(pager).listen(an_order(tmp_path))
    await client(pager).listen(an_order(tmp_path))
    assert len(pager.machines) == 1


async def test_a_socket_of_somebody_else_is_not_removed(pager: FakePager, tmp_path: Path) -> None:
    order = an_order(tmp_path)
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(order.socket)
        with pytest.raises(InvariantError):
            await client(pager).listen(order)
        assert (tmp_path / "s-1.sock").is_socket()


async def test_a_machine_that_is_not_recorded_goes_on_without_a_record(
    pager: FakePager, tmp_path: Path
) -> None:
    await served(pager, tmp_path)
    with pytest.raises(TransientError, match="not recorded") as caught:
        await client(pager).end_recording("s-1", deadline_s=10.0)
    assert caught.value.hint == "record another fork", "the machine itself is served on"


# -- a page server that dies --------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_order_is_given_again_to_the_next_one(
    pager: FakePager, tmp_path: Path, when: str
) -> None:
    pager.dies["listen"] = when
    order = an_order(tmp_path)
    await client(pager).listen(order)
    assert pager.deaths == 1
    await hand_over(order.socket, REGIONS)
    assert (await client(pager).wait("s-1", deadline_s=10.0)).pages == 2


async def test_an_order_that_was_carried_out_although_its_answer_was_lost_stands(
    pager: FakePager, tmp_path: Path
) -> None:
    """The connection is lost, not the page server."""
    order = an_order(tmp_path)
    lost_once = asyncio.Event()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = await pager.answer(json.loads(await reader.readline()))
        if lost_once.is_set():
            writer.write(answer or b"")
            await writer.drain()
        lost_once.set()

    async with listening(tmp_path / "relay.sock", relay):
        await PagerClient(tmp_path / "relay.sock").listen(order)
    assert [request["op"] for request in pager.requests] == ["listen", "listen"]
    await hand_over(order.socket, REGIONS)
    await client(pager).wait("s-1", deadline_s=10.0)


async def test_after_a_death_another_order_of_that_name_still_is_refused(
    pager: FakePager, tmp_path: Path
) -> None:
    await served(pager, tmp_path)
    pager.dies["listen"] = "before"
    with pytest.raises(InvariantError, match="there is a machine of that name"):
        await client(pager).listen(an_order(tmp_path, record="/r"))
    assert pager.deaths == 1
    assert (await client(pager).wait("s-1", deadline_s=10.0)).pages == 2


async def test_a_wait_goes_on_with_the_next_one(pager: FakePager, tmp_path: Path) -> None:
    await served(pager, tmp_path)
    pager.dies["wait"] = "before"
    assert (await client(pager).wait("s-1", deadline_s=10.0)).pages == 2
    assert pager.deaths == 1


async def test_a_machine_that_was_not_written_down_is_lost_with_the_page_server(
    pager: FakePager, tmp_path: Path
) -> None:
    await client(pager).listen(an_order(tmp_path))
    pager.dies["wait"] = "before"
    with pytest.raises(TransientError, match="never heard of it"):
        await client(pager).wait("s-1", deadline_s=10.0)


@pytest.mark.parametrize("op", ["stats", "forget", "hello"])
async def test_a_question_is_asked_again(pager: FakePager, tmp_path: Path, op: str) -> None:
    await served(pager, tmp_path)
    pager.dies[op] = "after"
    if op == "stats":
        assert len((await client(pager).stats()).machines) == 1
    elif op == "forget":
        await client(pager).forget("s-1")
    else:
        assert (await client(pager).hello()).machines == 1
    assert pager.deaths == 1
    assert [request["op"] for request in pager.requests][-2:] == [op, op]


async def test_a_record_lost_with_the_page_server_is_no_mistake_of_ours(
    pager: FakePager, tmp_path: Path
) -> None:
    await served(pager, tmp_path, record=str(tmp_path / "record"))
    pager.dies["end_recording"] = "before"
    with pytest.raises(TransientError, match="not any more"):
        await client(pager).end_recording("s-1", deadline_s=10.0)
    assert not (tmp_path / "record").exists()


async def test_one_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    pager = FakePager(tmp_path)
    asking = asyncio.create_task(client(pager).hello())
    await asyncio.sleep(0.02)
    assert not asking.done()
    async with pager.serving():
        assert (await asking).version == "9.9"


@pytest.mark.parametrize("left", ["nothing", "a socket"])
async def test_one_that_never_comes_is_an_error_that_says_so(tmp_path: Path, left: str) -> None:
    pager = FakePager(tmp_path)
    if left == "a socket":
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(pager.path))
    with pytest.raises(TransientError, match=r"did not answer in time: .*(No such|refused)") as one:
        await client(pager, call_s=SHORT_S).forget("s-1")
    assert one.value.code is ErrorCode.DEADLINE_EXCEEDED
    assert str(pager.path) in one.value.message


# -- one that misbehaves ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [b"\n", b"nonsense\n", b"[]\n", b'{"ok":1}\n', b'{"ok":true,"pid":"x"}\n', b'{"ok":false}\n',
     b'{"error":"unknown"}\n', b"[" * 5000 + b"\n", b'"\xff"\n'],
    ids=["empty", "words", "list", "number", "wrong type", "no word", "no ok", "deep", "not utf-8"],
)  # fmt: skip
async def test_what_is_no_answer_is_the_page_servers_fault(pager: FakePager, said: bytes) -> None:
    pager.says["stats"] = said
    with pytest.raises(PeerError) as caught:
        await client(pager).stats()
    assert caught.value.code is ErrorCode.VMM_PROTOCOL


async def test_an_answer_without_an_end_is_given_up(pager: FakePager) -> None:
    pager.says["stats"] = b"x" * (17 << 20)
    with pytest.raises(PeerError, match="more than"):
        await client(pager).stats()


async def test_silence_ends_at_the_deadline(pager: FakePager) -> None:
    pager.says["wait"] = None
    with pytest.raises(TransientError, match="has not answered"):
        await client(pager).wait("s-1", deadline_s=SHORT_S)


async def test_one_that_hangs_up_on_everybody_is_named_at_the_deadline(tmp_path: Path) -> None:
    async def hang_up(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        return

    async with listening(tmp_path / "pager.sock", hang_up):
        with pytest.raises(TransientError, match=r"hung up|reset|Broken pipe"):
            await PagerClient(tmp_path / "pager.sock").hello(deadline_s=SHORT_S)


async def test_a_path_that_no_socket_can_have_is_a_setting_to_correct(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pager\.control_socket"):
        await PagerClient(tmp_path / ("x" * 120)).hello(deadline_s=5.0)


async def test_a_file_in_the_sockets_place_is_told_at_the_deadline(tmp_path: Path) -> None:
    (tmp_path / "pager.sock").write_text("")
    with pytest.raises(TransientError, match="refused"):
        await PagerClient(tmp_path / "pager.sock").hello(deadline_s=SHORT_S)


@pytest.mark.parametrize("op", ["wait", "listen"])
async def test_a_cancelled_call_leaves_no_connection(
    pager: FakePager, tmp_path: Path, op: str
) -> None:
    pager.says[op] = None
    work = (
        client(pager).wait("s-1", deadline_s=60.0)
        if op == "wait"
        else client(pager).listen(an_order(tmp_path))
    )
    task = asyncio.create_task(work)
    while not pager.requests:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
