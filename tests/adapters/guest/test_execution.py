"""Executions on a real interpreter process."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from tests.adapters.guest.conftest import StartRuntime
from tests.adapters.guest.fake_host import FakeHost, Message


def text_of(messages: list[Message], kind: str = "stdout") -> str:
    return "".join(message["text"] for message in messages if message["type"] == kind)


def value_of(messages: list[Message]) -> str:
    (result,) = [message for message in messages if message["type"] == "result"]
    return str(result["data"]["text/plain"])


def test_the_namespace_is_kept_between_executions(host: FakeHost) -> None:
    host.execute("x = 20\ndef f(y): return x + y")
    assert value_of(host.execute("f(22)")) == "42"


def test_output_and_the_last_value_come_in_order(host: FakeHost) -> None:
    messages = host.execute("print('a'); display(1); print('b'); 2")
    assert [message["type"] for message in messages] == [
        *("stdout", "result", "stdout", "result", "end")
    ] or text_of(messages) == "a\nb\n"
    assert [m["main"] for m in messages if m["type"] == "result"] == [False, True]
    assert messages[-1]["status"] == "ok"


def test_output_of_a_child_process_appears(host: FakeHost) -> None:
    code = "import os; print('one', flush=True); os.system('echo two; echo three >&2'); None"
    messages = host.execute(code)
    assert text_of(messages) == "one\ntwo\n"
    assert text_of(messages, "stderr") == "three\n"


def test_an_exception_has_source_lines_without_our_frames(host: FakeHost) -> None:
    host.execute("def f():\n    raise ValueError('broken')")
    messages = host.execute("f()")
    error = messages[0]
    assert (error["type"], error["name"], error["value"]) == ("error", "ValueError", "broken")
    text = "\n".join(error["traceback"])
    assert "raise ValueError('broken')" in text
    assert "agentd" not in text
    assert messages[-1]["status"] == "error"


def test_a_syntax_error_is_an_error_like_others(host: FakeHost) -> None:
    messages = host.execute("1 +")
    assert messages[0]["name"] == "SyntaxError"
    assert "agentd" not in "\n".join(messages[0]["traceback"])


def test_rich_forms_of_a_value_are_sent(host: FakeHost) -> None:
    code = """
class Rich:
    def __repr__(self): return 'plain'
    def _repr_html_(self): return '<b>'
    def _repr_png_(self): return bytes([1, 2, 3])
    def _repr_json_(self): return {'a': [1]}
    def _repr_svg_(self): raise RuntimeError
Rich()
"""
    (result, _end) = host.execute(code)
    assert result["data"] == {
        "text/plain": "plain",
        "text/html": "<b>",
        "image/png": "AQID",
        "application/json": '{"a": [1]}',
    }


def test_environment_of_one_execution_is_gone_after_it(host: FakeHost) -> None:
    assert value_of(host.execute("import os; os.environ['ONCE']", env={"ONCE": "yes"})) == "'yes'"
    assert value_of(host.execute("os.environ.get('ONCE', 'gone')")) == "'gone'"


@pytest.mark.parametrize(
    ("code", "status", "detail"),
    [
        pytest.param("import os; os._exit(3)", "exited", "3", id="os-exit"),
        pytest.param("raise SystemExit(4)", "exited", "4", id="system-exit"),
        pytest.param("import sys; sys.exit()", "exited", "0", id="system-exit-none"),
        pytest.param("import ctypes; ctypes.string_at(0)", "signalled", "SIGSEGV", id="segv"),
        pytest.param("import os; os.kill(os.getpid(), 15)", "signalled", "SIGTERM", id="term"),
        pytest.param("import os; os.abort()", "signalled", "SIGABRT", id="abort"),
    ],
)
def test_code_that_ends_the_interpreter_is_followed_by_a_fresh_one(
    host: FakeHost, code: str, status: str, detail: str
) -> None:
    host.execute("x = 1")
    end = host.execute("print('before', flush=True)\n" + code)[-1]
    assert (end["status"], end["detail"], end["namespace_lost"]) == (status, detail, True)
    messages = host.execute("'x' in globals()")
    assert value_of(messages) == "False"
    assert messages[-1]["execution_count"] == end["execution_count"] + 1


@pytest.fixture
def patient_host(start_runtime: StartRuntime) -> FakeHost:
    """Of a runtime that kills nobody who is slow to obey."""
    return start_runtime(is_gated=False, obey_s=40.0).host


def test_a_time_out_interrupts_and_keeps_the_namespace(patient_host: FakeHost) -> None:
    host = patient_host
    host.execute("x = 1")
    end = host.execute("while True: pass", timeout_s=0.2)[-1]
    assert end["status"] == "timeout"
    assert "namespace_lost" not in end
    assert value_of(host.execute("x")) == "1"


def test_code_that_ignores_the_interrupt_is_killed(host: FakeHost) -> None:
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
    end = host.execute(code, timeout_s=0.2)[-1]
    assert (end["status"], end["namespace_lost"]) == ("timeout", True)
    assert value_of(host.execute("1")) == "1"


def test_code_that_blocked_the_interrupt_is_interruptible_next_time(
    patient_host: FakeHost,
) -> None:
    host = patient_host
    host.execute("import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})")
    end = host.execute("while True: pass", timeout_s=0.2)[-1]
    assert end["status"] == "timeout"
    assert "namespace_lost" not in end


def test_an_interrupt_stops_the_running_execution(host: FakeHost) -> None:
    stream = host.open("execute")
    host.send(stream, {"code": "print('go', flush=True)\nwhile True: pass"})
    assert (host.message(stream) or {})["text"] == "go\n"
    assert host.ask("signal", op="interrupt") == {"type": "done"}
    assert host.messages(stream)[-1]["status"] == "interrupted"


def test_an_interrupt_that_comes_before_the_code_has_begun_stops_it_when_it_has(
    host: FakeHost,
) -> None:
    for _ in range(20):
        stream = host.open("execute")
        host.send(stream, {"code": "while True: pass"})
        host.send(stream, {"op": "interrupt"})
        end = host.messages(stream)[-1]
        assert (end["status"], "namespace_lost" in end) == ("interrupted", False)


def test_an_interrupt_on_its_own_stream_ends_a_waiting_execution(host: FakeHost) -> None:
    first, second = host.open("execute"), host.open("execute")
    host.send(first, {"code": "print('go', flush=True)\nwhile True: pass"})
    host.message(first)
    host.send(second, {"code": "1"})
    host.send(second, {"op": "interrupt"})
    assert host.messages(second)[-1]["status"] == "interrupted"
    host.send(first, {"op": "interrupt"})
    assert host.messages(first)[-1]["status"] == "interrupted"


def test_endless_output_is_truncated_and_timed_out(host: FakeHost) -> None:
    code = "while True: print('y' * 1000)"
    messages = host.execute(code, timeout_s=0.5, max_output_bytes=5000)
    assert messages[-1]["status"] == "timeout"
    assert messages[-1]["stdout_truncated"] is True
    assert len(text_of(messages)) == 5000


def test_a_host_that_does_not_read_stops_the_output_but_not_the_time_out(
    start_runtime: StartRuntime,
) -> None:
    runtime = start_runtime(is_gated=False)
    runtime.host.gives_credit = False
    stream = runtime.host.open("execute")
    code = "while True: print('y' * 1000)"
    limits = {"timeout_s": 1, "max_output_bytes": 1 << 40}
    runtime.host.send(stream, {"code": code, **limits})
    runtime.host.pump(3.5)
    assert len(runtime.host.received[stream]) <= 262144
    assert value_of(runtime.host.execute("1")) == "1"


def test_a_result_of_100_mb_is_refused_and_the_namespace_kept(host: FakeHost) -> None:
    messages = host.execute("big = 'x' * 100_000_000\nbig")
    assert [message["type"] for message in messages] == ["end"]
    assert messages[-1]["status"] == "result_too_large"
    assert value_of(host.execute("len(big)")) == "100000000"


def test_large_results_within_the_limit_arrive(host: FakeHost) -> None:
    assert len(value_of(host.execute("'x' * 3_000_000"))) == 3_000_002


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import os; os.closerange(0, 65536)", id="closes-everything"),
        pytest.param(
            "import os\nfor fd in range(3, 1100):\n  try: os.write(fd, b'x' * 99)\n"
            "  except OSError: pass",
            id="writes-garbage",
        ),
        pytest.param("import sys; sys.stdout.close(); sys.stderr.close()", id="closes-streams"),
        pytest.param("import os; os.close(1); os.close(2)", id="closes-output"),
    ],
)
def test_code_that_spoils_the_descriptors_harms_only_itself(host: FakeHost, code: str) -> None:
    host.execute(code, timeout_s=5)
    messages = host.execute("print('still here')")
    assert text_of(messages) == "still here\n"


def test_a_forked_copy_of_the_interpreter_says_nothing(host: FakeHost) -> None:
    messages = host.execute("import os\npid = os.fork()\nif pid: os.waitpid(pid, 0)")
    assert [message["type"] for message in messages] == ["end"]
    assert value_of(host.execute("1 + 1")) == "2"


def test_executions_wait_for_each_other_in_order(host: FakeHost) -> None:
    streams = [host.open("execute") for _ in range(3)]
    for number, stream in enumerate(streams):
        host.send(stream, {"code": f"order = globals().get('order', []) + [{number}]"})
    for stream in streams:
        assert host.messages(stream)[-1]["status"] == "ok"
    assert value_of(host.execute("order")) == "[0, 1, 2]"


def test_an_execution_goes_on_when_its_stream_ends_early(host: FakeHost) -> None:
    stream = host.open("execute")
    host.send(stream, {"code": "print('go', flush=True)\nimport time; time.sleep(0.3); x = 7"})
    host.message(stream)
    host.reset(stream)
    assert value_of(host.execute("x")) == "7"


def test_an_execution_survives_a_host_that_connects_anew(host: FakeHost) -> None:
    stream = host.open("execute")
    host.send(stream, {"code": "print('go', flush=True)\nimport time; time.sleep(0.3); x = 8"})
    host.message(stream)
    host.sock.sendall(b"SF\x04\x00\x00")
    again = FakeHost(host.sock)
    again.hello()
    assert value_of(again.execute("x")) == "8"


def test_restart_gives_a_fresh_namespace(host: FakeHost) -> None:
    host.execute("x = 1")
    assert host.ask("signal", op="restart") == {"type": "done"}
    assert value_of(host.execute("'x' in globals()")) == "False"


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param({}, id="no-code"),
        pytest.param({"code": 1}, id="code-not-text"),
        pytest.param({"code": "1", "timeout_s": 0}, id="timeout-zero"),
        pytest.param({"code": "1", "env": {"A": 1}}, id="env-not-text"),
        pytest.param({"code": "1", "max_output_bytes": -1}, id="negative-limit"),
    ],
)
def test_a_request_that_is_wrong_is_answered_with_a_failure(
    host: FakeHost, request_: dict[str, Any]
) -> None:
    assert host.ask("execute", **request_)["code"] == "bad_request"


def test_shutdown_ends_the_runtime(start_runtime: StartRuntime) -> None:
    runtime = start_runtime(is_gated=False)
    assert runtime.host.ask("signal", op="shutdown") == {"type": "done"}
    assert runtime.wait() == 0


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to give user code another user")
def test_a_fork_bomb_is_bounded_and_cleared_away_by_a_restart(start_runtime: StartRuntime) -> None:
    first = start_runtime()
    first.close()
    os.chmod(first.directory, 0o755)
    os.chown(first.workspace, 61235, 61235)
    host = start_runtime(is_gated=False, uid=61235, gid=61235, max_processes=24).host
    bomb = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"
    end = host.execute(bomb, timeout_s=1)[-1]
    assert end["status"] == "timeout"
    # Copies that missed the interrupt may live on, as background processes do.
    host.ask("signal", op="restart")
    host.execute("1")
    wait_for_processes(host, 3)
    code = "import os; os.getuid(), os.system('exit 0')"
    messages = host.execute(code)
    assert messages[-1]["status"] == "ok", messages
    assert value_of(messages) == "(61235, 0)"


def test_what_an_interpreter_left_running_is_killed_with_it(host: FakeHost) -> None:
    code = "import subprocess; subprocess.Popen(['sleep', '1000'], start_new_session=True)"
    host.execute(code)
    assert len(host.status()["processes"]) == 4
    host.execute("import os; os._exit(0)")
    wait_for_processes(host, 3)


def wait_for_processes(host: FakeHost, count: int, deadline_s: float = 20.0) -> None:
    """Killing takes effect a moment after it was asked for."""
    deadline = time.monotonic() + deadline_s
    while len(processes := host.status()["processes"]) != count:
        assert time.monotonic() < deadline, processes
        time.sleep(0.05)
