"""What user code may do in a fork, and what a fork survives."""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.client import Sandbox
from agentd.client.calls import Call
from agentd.client.transport import Transport
from agentd.errors import ErrorCode, SnapStartError
from agentd.units import MIB
from bench.node import Node
from tests.integration.node.conftest import TEMPLATE
from tests.integration.node.images import PRODUCT_MAIN, build_changed_image

pytestmark = [pytest.mark.vm, pytest.mark.timeout(120)]

CLOCK_SLACK_S = 1.0
PNG = b"\x89PNG\r\n\x1a\n not a real one"
BRITTLE = '''
"""A module of an author whose hook fails where there is a session."""

import os

import snapshot_restore_py


@snapshot_restore_py.register_after_restore
def find_server():
    if "SNAPSTART_SESSION_ID" in os.environ:
        raise LookupError("no server to be found")
'''


@pytest.fixture
def sandbox(node: Node) -> Iterator[Sandbox]:
    with node.create(TEMPLATE) as made:
        yield made


def answers(sandbox: Sandbox) -> bool:
    return sandbox.run_code("6 * 7").text == "42"


def test_state_is_kept_over_executions(sandbox: Sandbox) -> None:
    sandbox.run_code("import numpy\nx = numpy.arange(4)\ndef f(n): return int(x.sum()) + n")
    assert sandbox.run_code("f(36)").text == "42"
    assert sandbox.run_code("1/0").error is not None
    assert sandbox.run_code("f(0)").text == "6"


@pytest.mark.parametrize(
    ("code", "is_lost"),
    [
        ("while True: pass", False),
        (
            "import signal\n"
            "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})\n"
            "while True: pass",
            True,
        ),
    ],
    ids=["plain", "blocks-sigint"],
)
def test_a_time_out_ends_code_that_never_ends(sandbox: Sandbox, code: str, is_lost: bool) -> None:
    outcome = sandbox.run_code(code, timeout=1)
    assert (outcome.status, outcome.namespace_lost) == ("timeout", is_lost)
    assert answers(sandbox)


def test_endless_output_is_cut_and_says_so(sandbox: Sandbox) -> None:
    outcome = sandbox.run_code("while True: print('x' * 1000)", timeout=3)
    assert (outcome.status, outcome.stdout_truncated) == ("timeout", True)
    assert sum(map(len, outcome.logs.stdout)) == MIB
    assert answers(sandbox)


@pytest.mark.parametrize(
    ("code", "status", "detail"),
    [
        ("import os; os._exit(3)", "exited", "3"),
        ("import ctypes; ctypes.string_at(0)", "signalled", "SIGSEGV"),
        ("kept = []\nwhile True: kept.append(bytearray(b'x') * (8 << 20))", "out_of_memory", ""),
    ],
    ids=["exit", "segfault", "memory"],
)
def test_a_lost_interpreter_is_named_and_replaced(
    sandbox: Sandbox, code: str, status: str, detail: str
) -> None:
    sandbox.run_code("x = 1")
    outcome = sandbox.run_code(code, timeout=60)
    assert (outcome.status, outcome.namespace_lost) == (status, True), outcome.detail
    assert detail in outcome.detail
    assert sandbox.run_code("'x' in globals()").text == "False"


def test_a_fork_bomb_is_bounded_and_ends_with_a_restart(sandbox: Sandbox) -> None:
    bomb = (
        "import os, time\n"
        "try:\n"
        "    while True:\n"
        "        if os.fork() == 0: time.sleep(1000)\n"
        "except OSError as exc: print(type(exc).__name__)"
    )
    outcome = sandbox.run_code(bomb, timeout=60)
    assert "".join(outcome.logs.stdout) == "BlockingIOError\n"
    sandbox.restart()
    count = "import os; sum(name.isdigit() for name in os.listdir('/proc')) < 100"
    assert sandbox.run_code(count).text == "True"


def test_a_result_of_100_mb_is_refused_and_the_session_goes_on(sandbox: Sandbox) -> None:
    outcome = sandbox.run_code("x = 1\n'y' * 100_000_000", timeout=60)
    assert (outcome.status, outcome.namespace_lost) == ("result_too_large", False)
    assert sandbox.run_code("x").text == "1"


def test_a_rich_result_carries_its_png(sandbox: Sandbox) -> None:
    code = f"class Plot:\n    def _repr_png_(self): return {PNG!r}\nPlot()"
    (result,) = sandbox.run_code(code).results
    assert result.png is not None
    assert base64.b64decode(result.png) == PNG


def test_files_of_any_size_and_name_come_back(sandbox: Sandbox) -> None:
    large = os.urandom(MIB) * 20
    name = "ein Ordner/größe ✓ 100%.bin"
    sandbox.files.write("large.bin", large)
    sandbox.files.write(name, b"content")
    assert b"".join(sandbox.files.stream("large.bin")) == large
    assert sandbox.files.read(name, "bytes") == b"content"
    assert {entry.path: entry.kind for entry in sandbox.files.list()} == {
        "/workspace/large.bin": "file",
        "/workspace/ein Ordner": "directory",
    }
    assert sandbox.run_code(f"open({name!r}).read()").text == "'content'"


def ask_http(node: Node, sandbox: Sandbox, path: str, body: Any = None) -> Any:
    """What the guest's HTTP interface answers, through the daemon."""
    where = f"/v1/sessions/{sandbox.sandbox_id}/http{path}"
    data = None if body is None else json.dumps(body).encode()
    call = Call("ask", "GET" if body is None else "POST", where, lambda reply: reply, data)
    transport = Transport(node.socket)
    try:
        return json.loads(transport.send(call))
    finally:
        transport.close()


def test_the_http_interface_is_reached_through_the_daemon(node: Node, sandbox: Sandbox) -> None:
    assert ask_http(node, sandbox, "/health") == {"status": "ok", "gate": "open"}
    status = ask_http(node, sandbox, "/runtime/status")
    assert (status["gate"], status["safeToSnapshot"]) == ("open", False)
    content = base64.b64encode(b"hello").decode()
    ask_http(node, sandbox, "/api/files", {"path": "a.txt", "content": content})
    listed = ask_http(node, sandbox, "/api/files?path=.")["files"]
    assert [entry["name"] for entry in listed] == ["a.txt"]
    command = {"command": "read line < a.txt; echo $line; exit 4"}
    done = ask_http(node, sandbox, "/api/execute", command)
    assert (done["stdout"], done["exit_code"]) == ("hello\n", 4)


def test_an_interrupt_stops_the_code_and_keeps_the_namespace(sandbox: Sandbox) -> None:
    sandbox.run_code("x = 1")
    started = threading.Event()

    def interrupt() -> None:
        started.wait(60)
        sandbox.interrupt()

    helper = threading.Thread(target=interrupt)
    helper.start()
    code = "import time\nprint('go', flush=True)\ntime.sleep(60)"
    outcome = sandbox.run_code(code, on_stdout=lambda _message: started.set())
    helper.join()
    assert (outcome.status, outcome.error and outcome.error.name) == (
        "interrupted",
        "KeyboardInterrupt",
    )
    assert sandbox.run_code("x").text == "1"


def test_a_restart_gives_a_fresh_interpreter_with_the_sessions_environment(node: Node) -> None:
    with Sandbox.create(TEMPLATE, envs={"COLOUR": "blue"}, socket=node.socket) as sandbox:
        sandbox.run_code("x = 1")
        sandbox.restart()
        code = "import os; 'x' in globals(), os.environ['COLOUR'], os.getcwd(), os.getuid()"
        assert sandbox.run_code(code).text == "(False, 'blue', '/workspace', 1000)"


def test_user_code_finds_no_inject_socket(sandbox: Sandbox) -> None:
    code = "import os; sorted(name for name in os.listdir('/run') if name.endswith('.sock'))"
    assert sandbox.run_code(code).text == "[]"


def test_local_connections_work(sandbox: Sandbox) -> None:
    code = (
        "import socket\n"
        "with socket.create_server(('127.0.0.1', 0)) as server:\n"
        "    client = socket.create_connection(server.getsockname(), 5)\n"
        "    client.sendall(b'over lo')\n"
        "    peer, _ = server.accept()\n"
        "    seen = peer.recv(99)\n"
        "seen"
    )
    assert sandbox.run_code(code).text == "b'over lo'"


def test_item_89_the_clock_of_a_fork_is_not_that_of_its_template(node: Node) -> None:
    time.sleep(2 * CLOCK_SLACK_S)  # so that a clock that stood still is behind by more
    with node.create(TEMPLATE) as sandbox:
        before = time.time()
        seen = float(sandbox.run_code("import time; time.time()").text or "0")
        assert before - CLOCK_SLACK_S < seen < time.time() + CLOCK_SLACK_S


def test_a_hook_that_fails_after_a_restore_is_named_in_the_error(
    node: Node, tmp_path: Path
) -> None:
    image = build_changed_image(
        tmp_path, PRODUCT_MAIN, preload=("agentd.guest.brittle",), brittle=BRITTLE
    )
    node.build_template("brittle", str(image.directory))
    try:
        with pytest.raises(
            SnapStartError, match=r"brittle\.find_server raised LookupErr"
        ) as caught:
            node.create("brittle").kill()
        assert caught.value.code is ErrorCode.GUEST_PROTOCOL
    finally:
        node.remove_template("brittle")
