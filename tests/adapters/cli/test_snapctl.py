"""Each command in both output modes, against a daemon on a real socket."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agentd.cli.snapctl import snapctl
from agentd.errors import ErrorCode
from tests.fakes.local_api import PNG, FakeLocalApi, HangUp, Refusal, Wait, end, text

Run = Callable[..., Result]
ROOT = Path(__file__).parents[3]


@pytest.fixture
def run(daemon: FakeLocalApi, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run snapctl in this process, plain, against the fake."""
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("SNAPSTART_SOCKET", str(daemon.socket_path))

    def invoke(*args: str, **more: Any) -> Result:
        return CliRunner().invoke(snapctl, args, **more)

    return invoke


def one_document(result: Result) -> Any:
    """The only thing on stdout."""
    return json.loads(result.stdout)


COMMANDS = {
    "template list": "python",
    "template show python": "256 MiB",
    "template rm python": "removed python",
    "template create made --image key --memory-mib 128 --vcpus 1": "made is ready",
    "template create made --image key --no-wait": "made is building",
    "session create python": "fork",
    "session list": "s1",
    "session show s1": "host-s1",
    "session exec s1 1+1": "1+1",
    "session ls s1": "in.txt",
    "session rm s1": "removed s1",
    "session rm s1:in.txt": "removed s1:in.txt",
    "session interrupt s1": "interrupted s1",
    "session interrupt s1 --restart": "restarted s1",
    "fork python --count 3": "3 in",
    "trace s1": "guest_ready",
    "top --once": "s1",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_speaks_to_people(daemon: FakeLocalApi, run: Run, command: str) -> None:
    daemon.files["s1", "in.txt"] = b"x"
    result = run(*command.split())
    assert result.exit_code == 0, result.stderr
    assert COMMANDS[command] in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_speaks_json(daemon: FakeLocalApi, run: Run, command: str) -> None:
    daemon.files["s1", "in.txt"] = b"x"
    result = run(*command.split(), "--json")
    assert result.exit_code == 0, result.stderr
    assert one_document(result)
    assert result.stderr == ""


def test_forks_whose_orders_arrive_in_pieces_are_told_apart(daemon: FakeLocalApi) -> None:
    body = json.dumps({"template": "python", "mode": "fork", "files": {}}).encode()
    head = f"POST /v1/sessions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
        for link in (one, other):
            link.settimeout(10)
            link.connect(str(daemon.socket_path))
            link.sendall(head.encode())
        before = len(daemon.sessions)
        while daemon.requests.count(("POST", "/v1/sessions")) < 2:
            time.sleep(0.001)
        for link in (one, other):
            link.sendall(body)
            assert link.recv(4096).startswith(b"HTTP/1.1 201")
    assert len(daemon.sessions) == before + 2


@pytest.mark.parametrize("command", ["template list", "session list", "top", "fork python -n 2"])
def test_tables_are_drawn_on_a_terminal(
    run: Run, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    result = run(*command.split(), *(["--once"] if command == "top" else []))
    assert result.exit_code == 0
    assert "\x1b[" in result.stdout
    monkeypatch.setenv("NO_COLOR", "1")
    result = run(*command.split(), *(["--once"] if command == "top" else []))
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", result.stdout)


@pytest.mark.parametrize(
    "command",
    [
        "", "image", "image build", "image list", "image show", "template", "template create",
        "template list", "template show", "template rm", "template verify", "session",
        "session create", "session list", "session show", "session exec", "session cp",
        "session ls", "session rm", "session interrupt", "fork", "top", "doctor", "report",
    ],
)  # fmt: skip
def test_every_help_text_has_an_example(run: Run, command: str) -> None:
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert "Example" in result.stdout or command in ("image", "template", "session")


def test_json_may_stand_before_the_command(run: Run) -> None:
    assert one_document(run("--json", "session", "list"))["sessions"][0]["id"] == "s1"


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_error_code_has_its_exit_code(
    daemon: FakeLocalApi, run: Run, code: ErrorCode
) -> None:
    daemon.refusals["GET", "/v1/sessions"] = Refusal(code.value, code.http_status, hint="do this")
    result = run("session", "list")
    assert result.exit_code == code.exit_code
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: refused: {code.value}\nhint: ")
    result = run("session", "list", "--json")
    assert result.exit_code == code.exit_code
    assert one_document(result)["error"]["code"] == code.value


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_an_unreachable_daemon_is_said_with_what_to_do(
    run: Run, tmp_path: Path, more: list[str]
) -> None:
    result = run("session", "list", "--socket", str(tmp_path / "none"), *more)
    assert result.exit_code == 63
    assert "agentd serve" in (result.stdout if more else result.stderr)


@pytest.mark.parametrize(
    "command",
    [
        "session list extra", "nonsense", "session create python --env novalue", "fork python -n 0",
        "session cp a b", "session cp s1:a s2:b", "template create x", "session exec",
        "template create x --image k --memory-mib none", "report /nonexistent",
        "session cp - s1:",
    ],
)  # fmt: skip
def test_bad_arguments_are_exit_code_2(run: Run, command: str) -> None:
    result = run(*command.split())
    assert result.exit_code == 2
    assert "error: " in result.stdout + result.stderr
    document = one_document(run(*command.split(), "--json"))
    assert document["error"]["code"] == "request_invalid"


def test_a_failed_build_ends_with_its_own_error(daemon: FakeLocalApi, run: Run) -> None:
    daemon.build_error = {"code": "guest_contaminated", "message": "left a file", "hint": "clean"}
    result = run("template", "create", "t", "--image", "k")
    assert result.exit_code == ErrorCode.GUEST_CONTAMINATED.exit_code
    assert "left a file" in result.stderr
    assert "warming" in result.stderr


def test_a_build_has_a_bar_on_a_terminal(
    daemon: FakeLocalApi, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    result = run("template", "create", "t", "--image", "k")
    assert result.exit_code == 0
    assert "warming" in result.stderr
    assert "60%" in result.stderr
    daemon.build_polls = 2
    quiet = run("template", "create", "u", "--image", "k", "--json")
    assert quiet.stderr == ""


def test_a_build_that_takes_too_long_goes_on_without_us(daemon: FakeLocalApi, run: Run) -> None:
    daemon.build_polls = 10**6
    result = run("template", "create", "t", "--image", "k", "--timeout", "0")
    assert result.exit_code == ErrorCode.DEADLINE_EXCEEDED.exit_code
    assert "snapctl template show t" in result.stderr


# -- exec -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("final", "exit_code", "said"),
    [
        (end("ok"), 0, ""),
        (end("error"), 1, ""),
        (end("timeout"), 28, "took too long"),
        (end("interrupted"), 130, "was interrupted"),
        (end("exited", detail="exit status 7", namespace_lost=True), 7, "variables are gone"),
        (end("exited", detail="0"), 0, ""),
        (end("signalled", detail="SIGSEGV", namespace_lost=True), 44, "SIGSEGV"),
        (end("out_of_memory"), 44, "memory"),
        (end("result_too_large"), 30, "too large"),
        (end("ok", stdout_truncated=True), 0, "stdout was cut off"),
    ],
)
def test_the_outcome_of_the_code_is_the_exit_code(
    daemon: FakeLocalApi, run: Run, final: dict[str, Any], exit_code: int, said: str
) -> None:
    daemon.scripts["go"] = [{"type": "stdout", "text": "out\n"}, final]
    result = run("session", "exec", "s1", "go")
    assert result.exit_code == exit_code
    assert result.stdout == "out\n"
    assert said in result.stderr
    as_json = run("session", "exec", "s1", "go", "--json")
    assert as_json.exit_code == exit_code
    assert one_document(as_json)["status"] == final["status"]


def test_output_goes_where_the_code_sent_it(daemon: FakeLocalApi, run: Run) -> None:
    error = {"type": "error", "name": "E", "value": "v", "traceback": ["Traceback", "E: v"]}
    daemon.scripts["go"] = [
        {"type": "stdout", "text": "o"}, {"type": "stderr", "text": "e\n"}, error, end("error"),
    ]  # fmt: skip
    result = run("session", "exec", "s1", "go")
    assert result.stdout == "o"
    assert result.stderr == "e\nTraceback\nE: v\n"


def test_code_comes_from_a_file_or_from_stdin(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "code.py"
    source.write_text("from file")
    assert run("session", "exec", "s1", "--file", str(source)).stdout == "from file\n"
    assert run("session", "exec", "s1", "-", input="piped").stdout == "piped\n"
    assert run("session", "exec", "s1", input="piped").stdout == "piped\n"
    both = run("session", "exec", "s1", "x", "--file", str(source))
    assert both.exit_code == 2


def test_options_of_exec_reach_the_daemon(daemon: FakeLocalApi, run: Run) -> None:
    run(
        "session", "exec", "s1", "x", "--timeout", "0", "--env", "A=b=c",
        "--max-output-bytes", "5", "--max-result-bytes", "6",
    )  # fmt: skip
    assert daemon.bodies[-1] == {
        "code": "x", "env": {"A": "b=c"}, "max_output_bytes": 5,
        "max_result_bytes": 6,
    }  # fmt: skip


def test_rich_results_are_saved_under_names_of_our_own(
    daemon: FakeLocalApi, run: Run, tmp_path: Path
) -> None:
    data = {"image/png": PNG, "text/html": "<b>", "application/../../x": "AAAA"}
    daemon.scripts["go"] = [{"type": "result", "data": data}, text("4"), end()]
    out = tmp_path / "new" / "out"
    result = run("session", "exec", "s1", "go", "--save-results", str(out), "--json")
    assert sorted(path.name for path in out.iterdir()) == [
        "result-1.bin", "result-1.html", "result-1.png", "result-2.txt",
    ]  # fmt: skip
    assert (out / "result-1.png").read_bytes().startswith(b"\x89PNG")
    assert len(one_document(result)["saved"]) == 4
    daemon.scripts["bad"] = [{"type": "result", "data": {"image/png": "%%"}}, end()]
    bad = run("session", "exec", "s1", "bad", "--save-results", str(out))
    assert bad.exit_code == ErrorCode.GUEST_PROTOCOL.exit_code


def test_a_disconnect_in_the_middle_is_said_clearly(daemon: FakeLocalApi, run: Run) -> None:
    daemon.scripts["go"] = [{"type": "stdout", "text": "half"}, HangUp()]
    result = run("session", "exec", "s1", "go")
    assert result.exit_code == 63
    assert result.stdout == "half"
    assert "hung up before its reply was complete" in result.stderr
    as_json = run("session", "exec", "s1", "go", "--json")
    assert one_document(as_json)["error"]["code"] == "agent_unreachable"


def test_a_huge_result_is_refused(daemon: FakeLocalApi, run: Run) -> None:
    start = b'{"type":"result","data":{"text/plain":"'
    daemon.scripts["big"] = [start, *[b"x" * (4 << 20)] * 25]
    result = run("session", "exec", "s1", "big")
    assert result.exit_code == ErrorCode.RESULT_TOO_LARGE.exit_code
    assert "copy that out" in result.stderr


# -- cp, fork, verify, top -----------------------------------------------------------------


def test_files_are_copied_in_and_out(daemon: FakeLocalApi, run: Run, tmp_path: Path) -> None:
    local = tmp_path / "in.txt"
    local.write_bytes(b"hello")
    assert run("session", "cp", str(local), "s1:").exit_code == 0
    assert run("session", "cp", str(local), "s1:sub/").exit_code == 0
    assert run("session", "cp", "-", "s1:piped", input="p").exit_code == 0
    assert daemon.files == {
        ("s1", "in.txt"): b"hello", ("s1", "sub/in.txt"): b"hello", ("s1", "piped"): b"p",
    }  # fmt: skip
    target = tmp_path / "back"
    target.mkdir()
    document = one_document(run("session", "cp", "s1:sub/in.txt", str(target), "--json"))
    assert document == {"source": "s1:sub/in.txt", "target": f"{target}/in.txt", "size": 5}
    assert (target / "in.txt").read_bytes() == b"hello"
    assert run("session", "cp", "s1:in.txt", "-").stdout == "hello"


def test_json_and_a_stream_do_not_share_stdout(run: Run) -> None:
    result = run("session", "cp", "s1:a", "-", "--json")
    assert result.exit_code == 2
    assert "exclude" in one_document(result)["error"]["message"]


def test_a_copy_that_fails_leaves_the_old_file(run: Run, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_bytes(b"precious")
    assert run("session", "cp", "s1:none", str(old)).exit_code == ErrorCode.FILE_NOT_FOUND.exit_code
    assert old.read_bytes() == b"precious"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".snapctl")] == []
    assert run("session", "cp", str(tmp_path / "missing"), "s1:").exit_code != 0


def test_forks_are_ended_unless_kept(daemon: FakeLocalApi, run: Run) -> None:
    document = one_document(run("fork", "python", "-n", "4", "--exec", "6*7", "--json"))
    assert [fork["output"] for fork in document["forks"]] == ["6*7"] * 4
    assert all(fork["stages_ms"]["total"] for fork in document["forks"])
    assert set(daemon.sessions) == {"s1"}
    kept = one_document(run("fork", "python", "-n", "2", "--keep", "--json"))
    assert {fork["session"] for fork in kept["forks"]} == set(daemon.sessions) - {"s1"}


def test_a_fork_that_fails_is_shown_beside_the_others(daemon: FakeLocalApi, run: Run) -> None:
    daemon.scripts["die"] = [end("signalled", detail="SIGKILL")]
    assert run("fork", "python", "-n", "2", "--exec", "die").exit_code == 44
    result = run("fork", "nothing", "-n", "2")
    assert result.exit_code == ErrorCode.TEMPLATE_NOT_FOUND.exit_code
    assert "ERROR" in result.stdout


def test_verify_refuses_forks_that_are_twins(daemon: FakeLocalApi, run: Run) -> None:
    from agentd.cli.verify import PROBE

    said = {"identity": {"hostname": "same", "urandom": "same"}, "clock": 0.0, "workspace": ["f"]}
    daemon.scripts[PROBE] = [{"type": "stdout", "text": json.dumps(said)}, end()]
    result = run("template", "verify", "python", "--json")
    assert result.exit_code == ErrorCode.GUEST_CONTAMINATED.exit_code
    files, *others = one_document(result)["checks"]
    assert files["is_ok"]
    assert "51.0 MiB" in files["detail"]
    assert not any(check["is_ok"] for check in others)
    assert set(daemon.sessions) == {"s1"}
    daemon.scripts[PROBE] = [{"type": "stdout", "text": "?"}, end()]
    assert run("template", "verify", "python").exit_code == ErrorCode.GUEST_REJECTED.exit_code
    assert set(daemon.sessions) == {"s1"}


def test_verify_forks_nothing_when_the_files_are_damaged(daemon: FakeLocalApi, run: Run) -> None:
    daemon.refusals["POST", "/v1/templates/python/verify"] = Refusal("template_corrupt", 422)
    result = run("template", "verify", "python", "--json")
    assert result.exit_code == ErrorCode.TEMPLATE_CORRUPT.exit_code
    assert one_document(result)["error"]["code"] == "template_corrupt"
    assert not daemon.bodies, "no session was asked for"


# -- as processes --------------------------------------------------------------------------


def start(*args: str, **more: Any) -> subprocess.Popen[str]:
    code = "from agentd.cli.snapctl import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more,
    )  # fmt: skip


def test_the_process_ends_with_the_exit_code(daemon: FakeLocalApi) -> None:
    with start("session", "show", "none", "--socket", str(daemon.socket_path)) as process:
        _, stderr = process.communicate(timeout=50)
    assert process.returncode == ErrorCode.SESSION_NOT_FOUND.exit_code
    assert stderr.startswith("error: refused: session_not_found\nhint: ")


def test_ctrl_c_interrupts_the_code_in_the_guest(daemon: FakeLocalApi) -> None:
    daemon.scripts["slow"] = [{"type": "stdout", "text": "begun\n"}, Wait(40), end()]
    args = ("session", "exec", "s1", "slow", "--socket", str(daemon.socket_path))
    with start(*args) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=50)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert ("POST", "/v1/sessions/s1/interrupt") in daemon.requests


def test_a_reader_that_goes_away_ends_us_quietly(daemon: FakeLocalApi) -> None:
    daemon.scripts["chatty"] = [*[{"type": "stdout", "text": "x" * 65536}] * 50, end()]
    args = ("session", "exec", "s1", "chatty", "--socket", str(daemon.socket_path))
    with start(*args) as process:
        assert process.stdout is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr is not None
        stderr = process.stderr.read()
        process.wait(50)
    assert process.returncode == 141
    assert stderr == ""


def test_plain_commands_do_not_import_what_they_do_not_need(daemon: FakeLocalApi) -> None:
    code = (
        "import sys; from agentd.cli.snapctl import snapctl\n"
        "try: snapctl(['session', 'list'])\n"
        "finally: print({'rich', 'aiohttp', 'asyncio', 'psutil'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
        env={**os.environ, "SNAPSTART_SOCKET": str(daemon.socket_path)}, timeout=50,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "set()"


def test_a_trace_says_where_the_time_of_a_start_went(daemon: FakeLocalApi, run: Run) -> None:
    result = run("trace", "s1")
    assert "s1: fork of python, 151.0 ms in all" in result.stdout
    document = one_document(run("trace", "s1", "--json"))
    assert document["total_ms"] == 151.0
    stages = {one["stage"]: (one["begin_ms"], one["end_ms"]) for one in document["stages"]}
    assert stages["load"] == (21.0, 61.0)
    missing = run("trace", "none", "--json")
    assert missing.exit_code == ErrorCode.SESSION_NOT_FOUND.exit_code
    assert one_document(missing)["error"]["code"] == "session_not_found"
