"""The blocking client against a daemon on a real socket."""

from __future__ import annotations

import dataclasses
import io
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentd.client import OutputMessage, Result, Sandbox, Transport, calls
from agentd.client.execution import MAX_EVENT_BYTES
from agentd.errors import (
    ConfigError,
    ErrorCode,
    PeerError,
    SnapStartError,
    TransientError,
    UsageError,
)
from agentd.wire import api
from tests.fakes.local_api import PNG, FakeLocalApi, HangUp, Refusal, Wait, end, text


@contextmanager
def connected(daemon: FakeLocalApi, session_id: str = "s1") -> Iterator[Sandbox]:
    sandbox = Sandbox.connect(session_id, socket=daemon.socket_path)
    try:
        yield sandbox
    finally:
        sandbox.close()


def test_a_session_lives_as_long_as_its_with_block(daemon: FakeLocalApi) -> None:
    with Sandbox.create(template="python", socket=daemon.socket_path) as sbx:
        assert sbx.sandbox_id in daemon.sessions
        assert sbx.is_running()
        assert sbx.run_code("x").text == "x"
    assert sbx.sandbox_id not in daemon.sessions


def test_what_the_caller_wishes_reaches_the_daemon(daemon: FakeLocalApi) -> None:
    with Sandbox.create(
        timeout=60.0, idle_timeout=5.0, request_timeout=3.0, envs={"A": "b"},
        files={"in.bin": b"\x00\xff"}, metadata={"k": "v"}, mode=api.SessionMode.COLD,
        socket=daemon.socket_path,
    ) as sbx:  # fmt: skip
        assert sbx.files.read("in.bin", "bytes") == b"\x00\xff"
    assert daemon.bodies[0] == {
        "template": "python", "mode": "cold", "ttl_s": 60.0, "idle_timeout_s": 5.0,
        "deadline_s": 3.0, "env": {"A": "b"}, "files": {"in.bin": "AP8="}, "metadata": {"k": "v"},
    }  # fmt: skip


def test_one_connection_serves_consecutive_calls(daemon: FakeLocalApi) -> None:
    with connected(daemon) as sbx:
        for _ in range(5):
            sbx.run_code("1")
            sbx.files.write("a", b"b")
        with pytest.raises(UsageError):
            sbx.files.read("missing")
        sbx.get_info()
    assert len(daemon.connections) == 1


def test_output_results_and_errors_come_as_they_happen(daemon: FakeLocalApi) -> None:
    daemon.scripts["go"] = [
        {"type": "stdout", "text": "a\n"},
        {"type": "stderr", "text": "warn"},
        {"type": "result", "data": {"image/png": PNG}},
        {"type": "stdout", "text": "b"},
        text("42"),
        {"type": "error", "name": "ValueError", "value": "no", "traceback": ["x\n", "y"]},
        end("error", duration_s=1.5, execution_count=7, stdout_truncated=True),
    ]
    seen: list[object] = []
    with connected(daemon) as sbx:
        done = sbx.run_code(
            "go", on_stdout=seen.append, on_stderr=seen.append, on_result=seen.append,
            on_error=seen.append, timeout=9.0, envs={"E": "1"},
        )  # fmt: skip
    assert done.logs.stdout == ["a\n", "b"]
    assert done.logs.stderr == ["warn"]
    assert done.text == "42"
    assert done.results[0].png == PNG
    assert done.error is not None
    assert done.error.traceback == "x\ny"
    assert (done.status, done.execution_count, done.stdout_truncated) == ("error", 7, True)
    assert seen[0] == OutputMessage("a\n")
    assert seen[1] == OutputMessage("warn", error=True)
    assert isinstance(seen[2], Result)
    assert seen[-1] is done.error
    assert daemon.bodies[-1]["timeout_s"] == 9.0
    assert daemon.bodies[-1]["env"] == {"E": "1"}


def test_first_output_is_shown_before_the_end(daemon: FakeLocalApi) -> None:
    daemon.scripts["slow"] = [{"type": "stdout", "text": "now"}, Wait(30), end()]

    def stop(_message: OutputMessage) -> None:
        raise StopIteration

    with connected(daemon) as sbx, pytest.raises(StopIteration):
        sbx.run_code("slow", on_stdout=stop)


def test_an_error_of_the_callers_callback_stays_the_callers(daemon: FakeLocalApi) -> None:
    daemon.scripts["p"] = [{"type": "stdout", "text": "x"}, end()]

    def fail(_message: OutputMessage) -> None:
        raise ConnectionResetError("mine")

    with connected(daemon) as sbx, pytest.raises(ConnectionResetError, match="mine"):
        sbx.run_code("p", on_stdout=fail)


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([HangUp()], id="before-the-first-event"),
        pytest.param([{"type": "stdout", "text": "a"}, HangUp()], id="between-events"),
        pytest.param([b'{"type": "std', HangUp()], id="inside-an-event"),
        pytest.param([{"type": "stdout", "text": "a"}], id="a-clean-end-without-the-end-event"),
    ],
)
def test_a_disconnect_in_the_middle_is_said_clearly(
    daemon: FakeLocalApi, steps: list[object]
) -> None:
    daemon.scripts["go"] = steps
    with connected(daemon) as sbx:
        with pytest.raises(TransientError, match="hung up before its reply was complete") as info:
            sbx.run_code("go")
        assert info.value.code is ErrorCode.AGENT_UNREACHABLE
        assert info.value.hint
        assert sbx.run_code("1").text == "1"


def test_a_failure_after_the_first_event_has_its_code(daemon: FakeLocalApi) -> None:
    failed = {"type": "failed", "code": "guest_protocol", "message": "bad frame"}
    daemon.scripts["go"] = [{"type": "stdout", "text": "a"}, failed]
    with connected(daemon) as sbx, pytest.raises(PeerError, match="bad frame") as info:
        sbx.run_code("go")
    assert info.value.code is ErrorCode.GUEST_PROTOCOL


def test_an_endless_event_is_refused_without_holding_it(daemon: FakeLocalApi) -> None:
    piece = b"x" * (4 << 20)
    daemon.scripts["big"] = [b'{"type":"result","data":{"text/plain":"', *[piece] * 25]
    with connected(daemon) as sbx, pytest.raises(UsageError, match="32 MiB") as info:
        sbx.run_code("big")
    assert MAX_EVENT_BYTES < 100 << 20
    assert info.value.code is ErrorCode.RESULT_TOO_LARGE


def test_a_file_beyond_the_limit_is_refused_but_streams(daemon: FakeLocalApi) -> None:
    daemon.files["s1", "big"] = bytes(calls.MAX_REPLY_BYTES + 1)
    with connected(daemon) as sbx:
        with pytest.raises(UsageError) as info:
            sbx.files.read("big")
        assert info.value.code is ErrorCode.RESULT_TOO_LARGE
        assert sum(map(len, sbx.files.stream("big"))) == calls.MAX_REPLY_BYTES + 1


def test_files_go_in_and_out(daemon: FakeLocalApi, tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.write_bytes(b"z" * 700_000)
    with connected(daemon) as sbx:
        sbx.files.write("a b/ü?.txt", "grüße")
        assert sbx.files.read("a b/ü?.txt") == "grüße"
        assert sbx.files.exists("a b/ü?.txt")
        assert not sbx.files.exists("a b/other")
        assert not sbx.files.exists("no such/other")
        assert sbx.files.exists("/")
        with local.open("rb") as file:
            sbx.files.write("big", file)
        sbx.files.write("pipe", io.BytesIO(b"no size of its own"))
        sbx.files.write("/etc/abs", b"")
        assert daemon.files["s1", "/etc/abs"] == b""
        assert daemon.files["s1", "big"] == local.read_bytes()
        assert sbx.files.read("pipe") == "no size of its own"
        assert {entry.path for entry in sbx.files.list()} == {
            "a b/ü?.txt",
            "big",
            "pipe",
            "/etc/abs",
        }
        sbx.files.remove("big")
        with pytest.raises(UsageError) as info:
            sbx.files.remove("big")
        assert info.value.code is ErrorCode.FILE_NOT_FOUND
        with pytest.raises(UsageError, match="empty"):
            sbx.files.read("")


def test_a_file_that_shrinks_is_not_sent_as_if_whole(daemon: FakeLocalApi, tmp_path: Path) -> None:
    path = tmp_path / "shrinking"
    path.write_bytes(b"z" * 10)
    with path.open("rb") as file, connected(daemon) as sbx:
        call = calls.write_file("s1", "x", file)
        os.truncate(path, 4)
        with pytest.raises(UsageError, match="lost 6 bytes"):
            sbx._transport.send(call)
    assert ("s1", "x") not in daemon.files


def test_the_daemons_refusal_becomes_its_error(daemon: FakeLocalApi) -> None:
    daemon.refusals["POST", "/v1/sessions"] = Refusal(
        "node_full", 503, hint="end some", headers={"Retry-After": "7"}
    )
    with pytest.raises(TransientError, match="refused: node_full; end some") as info:
        Sandbox.create(socket=daemon.socket_path)
    assert info.value.code is ErrorCode.NODE_FULL
    assert info.value.delay_s == 7.0


def test_an_answer_that_is_not_agentds_says_so(daemon: FakeLocalApi) -> None:
    daemon.refusals["GET", "/v1/sessions"] = Refusal("", 502, raw="<html>")
    with pytest.raises(PeerError, match="HTTP 502"):
        Sandbox.list(socket=daemon.socket_path)
    daemon.refusals["GET", "/v1/sessions"] = Refusal("", 200, raw="[]")
    with pytest.raises(PeerError, match="not understood"):
        Sandbox.list(socket=daemon.socket_path)


def test_ending_a_session_twice_is_no_error(daemon: FakeLocalApi) -> None:
    sbx = Sandbox.connect("s1", socket=daemon.socket_path)
    assert sbx.kill()
    with pytest.raises(UsageError, match="closed"):
        sbx.run_code("1")
    again = Sandbox.connect(daemon.add_session("s2")["id"], socket=daemon.socket_path)
    daemon.sessions.clear()
    assert not again.is_running()
    assert not again.kill()


def test_sessions_can_be_listed_interrupted_restarted(daemon: FakeLocalApi) -> None:
    assert [one.id for one in Sandbox.list(socket=daemon.socket_path)] == ["s1"]
    with connected(daemon) as sbx:
        sbx.interrupt()
        sbx.restart()
    assert daemon.requests[-2:] == [
        ("POST", "/v1/sessions/s1/interrupt"), ("POST", "/v1/sessions/s1/restart"),
    ]  # fmt: skip
    with pytest.raises(UsageError) as info:
        Sandbox.connect("nobody", socket=daemon.socket_path)
    assert info.value.code is ErrorCode.SESSION_NOT_FOUND


def test_a_missing_socket_tells_how_to_start_the_daemon(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match=r"no such socket.*agentd serve") as info:
        Sandbox.list(socket=tmp_path / "none.sock")
    assert info.value.code is ErrorCode.AGENT_UNREACHABLE


def test_a_dead_socket_says_that_nobody_listens(tmp_path: Path) -> None:
    path = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(TransientError, match="nobody listens"):
        Sandbox.list(socket=path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_a_forbidden_socket_names_the_permission(daemon: FakeLocalApi, tmp_path: Path) -> None:
    daemon.socket_path.chmod(0o600)
    for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(ConfigError) as info:
            Sandbox.list(socket=daemon.socket_path)
    finally:
        os.seteuid(0)
    assert info.value.code is ErrorCode.PERMISSION_DENIED


def test_a_reply_that_does_not_come_ends_at_the_deadline(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent, _sending(tmp_path) as transport:
        silent.bind(transport.socket_path)
        silent.listen()
        call = calls.Call("ask", "GET", "/v1/health", bytes, timeout_s=0.05)
        with pytest.raises(TransientError, match=r"within 0\.05 s") as info:
            transport.send(call)
    assert info.value.code is ErrorCode.DEADLINE_EXCEEDED


def test_a_reply_cut_short_is_never_taken_for_whole(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, _sending(tmp_path) as transport:
        server.bind(transport.socket_path)
        server.listen()

        def answer() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(TransientError, match="cut short"):
            transport.send(calls.health())
        thread.join()


def test_a_kept_connection_that_died_is_replaced(tmp_path: Path) -> None:
    with _sending(tmp_path) as transport:
        path = Path(transport.socket_path)
        with FakeLocalApi(path):
            transport.send(calls.health())
        # For as long as a call may take, its successor is waited for.
        with pytest.raises(TransientError, match="no such socket"):
            transport.send(dataclasses.replace(calls.health(), timeout_s=0.3))
        with FakeLocalApi(path):
            transport.send(calls.health())
        with FakeLocalApi(path):
            assert transport.send(calls.health()).status == "ok"


def test_threads_share_a_transport(daemon: FakeLocalApi) -> None:
    answers: list[str | None] = []
    with connected(daemon) as sbx:
        threads = [
            threading.Thread(target=lambda i=i: answers.append(sbx.run_code(str(i)).text))
            for i in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(filter(None, answers)) == [str(i) for i in range(8)]


def test_the_blocking_client_is_light_to_import() -> None:
    heavy = "{'asyncio', 'aiohttp', 'rich', 'click'}"
    code = f"import sys, agentd.client; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_unknown_errors_of_a_newer_daemon_are_still_errors(daemon: FakeLocalApi) -> None:
    daemon.refusals["GET", "/v1/sessions"] = Refusal("brand_new", 418)
    with pytest.raises(SnapStartError, match="brand_new"):
        Sandbox.list(socket=daemon.socket_path)


@contextmanager
def _sending(tmp_path: Path) -> Iterator[Transport]:
    transport = Transport(tmp_path / "t.sock")
    try:
        yield transport
    finally:
        transport.close()
