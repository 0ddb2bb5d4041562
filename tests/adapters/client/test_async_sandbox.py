"""The asyncio client against a daemon on a real socket."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agentd.client import AsyncSandbox, AsyncTransport, OutputMessage, calls
from agentd.errors import ErrorCode, TransientError, UsageError
from tests.fakes.local_api import FakeLocalApi, HangUp, Refusal, Wait, end, text


async def test_a_session_lives_as_long_as_its_with_block(daemon: FakeLocalApi) -> None:
    async with await AsyncSandbox.create(socket=daemon.socket_path) as sbx:
        assert (await sbx.run_code("x")).text == "x"
        assert await sbx.is_running()
    assert sbx.sandbox_id not in daemon.sessions
    with pytest.raises(UsageError, match="closed"):
        await sbx.run_code("x")


async def test_callbacks_may_be_coroutines(daemon: FakeLocalApi) -> None:
    daemon.scripts["go"] = [{"type": "stdout", "text": "a"}, text("1"), end()]
    seen: list[str] = []

    async def collect(message: OutputMessage) -> None:
        await asyncio.sleep(0)
        seen.append(message.line)

    sbx = await AsyncSandbox.connect("s1", socket=daemon.socket_path)
    done = await sbx.run_code(
        "go", on_stdout=collect, on_result=lambda r: seen.append(r.text or "")
    )
    await sbx.close()
    assert seen == ["a", "1"]
    assert done.status == "ok"


async def test_files_go_in_and_out(daemon: FakeLocalApi, tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.write_bytes(b"z" * 700_000)
    sbx = await AsyncSandbox.connect("s1", socket=daemon.socket_path)
    await sbx.files.write("/abs/ü?.txt", "grüße")
    assert await sbx.files.read("/abs/ü?.txt") == "grüße"
    assert await sbx.files.exists("/abs/ü?.txt")
    assert not await sbx.files.exists("none/x")
    with local.open("rb") as file:
        await sbx.files.write("big", file)
    assert [len(piece) > 0 async for piece in sbx.files.stream("big")]
    assert daemon.files["s1", "big"] == local.read_bytes()
    assert len(await sbx.files.list()) == 2
    await sbx.files.remove("big")
    with pytest.raises(UsageError) as info:
        await sbx.files.read("big")
    await sbx.close()
    assert info.value.code is ErrorCode.FILE_NOT_FOUND


@pytest.mark.parametrize("steps", [[HangUp()], [{"type": "stdout", "text": "a"}, HangUp()], []])
async def test_a_disconnect_in_the_middle_is_said_clearly(
    daemon: FakeLocalApi, steps: list[object]
) -> None:
    daemon.scripts["go"] = steps
    sbx = await AsyncSandbox.connect("s1", socket=daemon.socket_path)
    with pytest.raises(TransientError, match="hung up before its reply was complete") as info:
        await sbx.run_code("go")
    assert info.value.code is ErrorCode.AGENT_UNREACHABLE
    assert (await sbx.run_code("1")).text == "1"
    await sbx.close()


async def test_cancellation_leaves_the_client_usable(daemon: FakeLocalApi) -> None:
    daemon.scripts["slow"] = [{"type": "stdout", "text": "a"}, Wait(30), end()]
    sbx = await AsyncSandbox.connect("s1", socket=daemon.socket_path)
    began = asyncio.Event()
    task = asyncio.create_task(sbx.run_code("slow", on_stdout=lambda _m: began.set()))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await sbx.run_code("1")).text == "1"
    await sbx.close()


async def test_errors_are_those_of_the_blocking_client(
    daemon: FakeLocalApi, tmp_path: Path
) -> None:
    daemon.refusals["POST", "/v1/sessions"] = Refusal("no_memory", 507)
    with pytest.raises(TransientError) as info:
        await AsyncSandbox.create(socket=daemon.socket_path)
    assert info.value.code is ErrorCode.NO_MEMORY
    with pytest.raises(TransientError, match="no such socket"):
        await AsyncSandbox.list(socket=tmp_path / "none.sock")
    assert len(await AsyncSandbox.list(socket=daemon.socket_path)) == 1


async def test_a_reply_that_does_not_come_ends_at_the_deadline(daemon: FakeLocalApi) -> None:
    daemon.scripts["slow"] = [Wait(30)]
    transport = AsyncTransport(daemon.socket_path)
    body = b'{"code": "slow"}'
    call = calls.Call(
        "run", "POST", "/v1/sessions/s1/execute", bytes, body, accept=calls.NDJSON, timeout_s=0.1
    )
    with pytest.raises(TransientError) as info:
        await transport.send(call)
    await transport.close()
    assert info.value.code is ErrorCode.DEADLINE_EXCEEDED


async def test_signals_and_a_second_kill(daemon: FakeLocalApi) -> None:
    sbx = await AsyncSandbox.connect("s1", socket=daemon.socket_path)
    await sbx.interrupt()
    await sbx.restart()
    daemon.sessions.clear()
    assert not await sbx.is_running()
    assert not await sbx.kill()
