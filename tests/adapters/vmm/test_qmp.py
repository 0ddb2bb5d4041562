"""A monitor that answers, refuses, lies, falls silent."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentd.errors import ErrorCode, PeerError
from agentd.vmm.qmp import QmpClient, read_console

GREETING = {"QMP": {"version": {}, "capabilities": []}}
EVENT = {"event": "RTC_CHANGE", "data": {}}


class FakeMonitor:
    """Speaks QMP. Args: answers: for each command, the lines to send; bytes go out as they are."""

    def __init__(self, answers: dict[str, list[Any]], greeting: object = GREETING) -> None:
        self._answers = {"qmp_capabilities": [{"return": {}}], **answers}
        self._greeting = greeting
        self.asked: list[dict[str, Any]] = []
        self._clients: list[asyncio.Task[None]] = []

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.append(asyncio.create_task(self._serve(reader, writer)))

    async def gone(self) -> None:
        """Wait until every client has hung up."""
        await asyncio.wait_for(asyncio.gather(*self._clients), 10)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._send(writer, self._greeting, None)
        while line := await reader.readline():
            request = json.loads(line)
            self.asked.append(request)
            answers = self._answers.get(request["execute"])
            if answers is None:
                break
            for answer in answers:
                self._send(writer, answer, request["id"])

    @staticmethod
    def _send(writer: asyncio.StreamWriter, answer: Any, number: object) -> None:
        if isinstance(answer, bytes):
            writer.write(answer)
            return
        named = {**answer, "id": number} if {"return", "error"} & set(answer) else answer
        writer.write(json.dumps(named).encode() + b"\n")


@asynccontextmanager
async def listening(monitor: FakeMonitor, path: Path) -> AsyncIterator[None]:
    server = await asyncio.start_unix_server(monitor.accept, path)
    async with server:
        yield
        await monitor.gone()


async def test_events_between_command_and_reply_are_skipped(tmp_path: Path) -> None:
    monitor = FakeMonitor({"query": [EVENT, EVENT, {"return": {"x": 1}}]})
    path = tmp_path / "qmp"
    async with listening(monitor, path), QmpClient(path) as qmp:
        assert await qmp.execute("query", {"device": "console"}) == {"x": 1}
    assert monitor.asked[-1]["arguments"] == {"device": "console"}


async def test_defect_22_a_reply_that_came_with_the_one_before_is_not_lost(tmp_path: Path) -> None:
    early = b'{"return": 2, "id": "second"}\n'
    monitor = FakeMonitor({"first": [{"return": 1}, early], "second": []})
    path = tmp_path / "qmp"
    async with listening(monitor, path), QmpClient(path) as qmp:
        assert [await qmp.execute("first"), await qmp.execute("second")] == [1, 2]


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        ({"error": {"class": "GenericError", "desc": "no"}}, ErrorCode.VMM_FAILED, "'query'.*: no"),
        (b"no json\n", ErrorCode.VMM_PROTOCOL, "malformed"),
        (b'{"error": 3}\n', ErrorCode.VMM_PROTOCOL, "Expected `object"),
        (b"[]\n", ErrorCode.VMM_PROTOCOL, "Expected `object"),
        (b"x" * (2 << 20) + b"\n", ErrorCode.VMM_PROTOCOL, "limit"),
    ],
    ids=["refused", "no_json", "wrong_member", "wrong_type", "too_long"],
)
async def test_a_monitor_that_does_not_do_as_asked_is_a_peer_error(
    tmp_path: Path, answer: Any, code: ErrorCode, words: str
) -> None:
    path = tmp_path / "qmp"
    async with listening(FakeMonitor({"query": [answer]}), path):
        with pytest.raises(PeerError, match=words) as caught:
            async with QmpClient(path) as qmp:
                await qmp.execute("query")
    assert caught.value.code is code


async def test_a_monitor_that_hangs_up_is_a_peer_error(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    async with listening(FakeMonitor({}), path):
        with pytest.raises(PeerError, match="hung up"):
            async with QmpClient(path) as qmp:
                await qmp.execute("query")
    async with listening(FakeMonitor({}, greeting=b"what?\n"), tmp_path / "other"):
        with pytest.raises(PeerError, match="malformed"):
            async with QmpClient(tmp_path / "other"):
                pass


async def test_the_console_is_what_the_ring_buffer_holds(tmp_path: Path) -> None:
    text = base64.b64encode(b"a\0b\xff\n").decode()
    monitor = FakeMonitor({"ringbuf-read": [{"return": text}]})
    async with listening(monitor, tmp_path / "qmp"):
        assert await read_console(tmp_path / "qmp", deadline_s=5) == "a\0b\ufffd\n"
    assert monitor.asked[-1]["arguments"]["size"] == 65536


@pytest.mark.parametrize(
    "answers",
    [[], [EVENT], [{"error": {"desc": "no such device"}}], [{"return": 3}], [{"return": "%"}]],
    ids=["silence", "only_events", "refusal", "a_number", "no_base64"],
)
async def test_a_console_that_cannot_be_read_is_empty(tmp_path: Path, answers: list[Any]) -> None:
    async with listening(FakeMonitor({"ringbuf-read": answers}), tmp_path / "qmp"):
        assert await read_console(tmp_path / "qmp", deadline_s=0.2) == ""


async def test_without_a_monitor_the_console_is_empty(tmp_path: Path) -> None:
    assert await read_console(tmp_path / "none", deadline_s=1) == ""
