"""The guest's part of the acceptance list, by number."""

from __future__ import annotations

import base64
import json
import os
import stat
import struct
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.adapters.guest.conftest import Runtime, StartRuntime
from tests.adapters.guest.fake_host import encode
from tests.adapters.guest.test_execution import value_of

DRAW = "import random, uuid, tempfile; (random.random(), str(uuid.uuid1())[14:], tempfile.mktemp())"


def receive(sock: Any) -> dict[str, Any] | None:
    """One message of the inject socket; None at the end of the connection."""
    head = b""
    while len(head) < 4:
        data = sock.recv(4 - len(head))
        if not data:
            return None
        head += data
    (size,) = struct.unpack(">I", head)
    body = b""
    while len(body) < size:
        body += sock.recv(size - len(body))
    return dict(json.loads(body))


def test_item_77_started_is_sent_after_environment_and_gate(runtime: Runtime) -> None:
    assert "gate_closed" in str(_refusal(runtime, "execute"))
    runtime.host.inject(env_overrides={"TOKEN": "t"})
    assert runtime.host.status()["gate"] == "open"
    assert value_of(runtime.host.execute("import os; os.environ['TOKEN']")) == "'t'"
    assert "gate_open" in str(_refusal(runtime, "inject"))


def _refusal(runtime: Runtime, service: str) -> ConnectionResetError:
    with pytest.raises(ConnectionResetError) as caught:
        runtime.host.message(runtime.host.open(service))
    return caught.value


def test_item_78_interpreters_of_one_zygote_draw_different_numbers(runtime: Runtime) -> None:
    runtime.host.inject()
    first = value_of(runtime.host.execute(DRAW))
    runtime.host.execute("import os; os._exit(0)")
    assert value_of(runtime.host.execute(DRAW)) != first


def test_item_78_a_generator_that_cannot_be_reseeded_is_fatal(
    start_runtime: StartRuntime,
) -> None:
    runtime = start_runtime()
    runtime.close()
    (runtime.directory / "brittle.py").write_text(
        "import snapshot_restore_py, os\n"
        "seen = []\n"
        "@snapshot_restore_py.register_generator\n"
        "def reseed():\n"
        "    if os.path.exists('../fail'): raise OSError('no entropy')\n"
    )
    runtime = start_runtime(preload=["brittle"])
    (runtime.directory / "fail").touch()
    stream = runtime.host.open("inject")
    runtime.host.message(stream)
    runtime.host.send(stream, {"type": "COMMIT"})
    with pytest.raises(ConnectionResetError, match="commit_failed"):
        runtime.host.message(stream)
    assert "brittle.reseed raised OSError: no entropy" in runtime.host.resets[stream]["message"]
    assert runtime.wait() == 1


def test_item_79_the_workspace_of_the_context_is_bound(runtime: Runtime) -> None:
    path = runtime.workspace / "s1"
    files = {"in/a.txt": base64.b64encode(b"hello").decode()}
    context = {"session_id": "s1", "workspace": str(path), "files": files}
    runtime.host.inject(context=context)
    assert value_of(runtime.host.execute("import os; os.getcwd()")) == repr(str(path))
    assert value_of(runtime.host.execute("open('in/a.txt').read()")) == "'hello'"
    runtime.host.execute("os._exit(0)")
    assert value_of(runtime.host.execute("import os; os.getcwd()")) == repr(str(path))


def test_item_80_a_dangerous_variable_is_rejected_and_the_instance_waits_on(
    runtime: Runtime,
) -> None:
    stream = runtime.host.open("inject")
    runtime.host.message(stream)
    bad = {"type": "PREPARE", "task_id": "t", "env_overrides": {"LD_PRELOAD": "x"}}
    runtime.host.send(stream, bad)
    answer, rest = runtime.host.message(stream), runtime.host.message(stream)
    assert answer is not None
    assert (answer["type"], answer["reason"], rest) == ("REJECT", "parse_error", None)
    runtime.host.inject()


def test_item_81_a_stale_socket_file_does_not_stop_the_start(
    start_runtime: StartRuntime,
) -> None:
    first = start_runtime()
    first.process.kill()
    first.process.wait()
    assert first.inject_socket.exists()
    again = start_runtime()
    with again.connect() as sock:
        assert (receive(sock) or {})["type"] == "CAPABILITIES"
    assert stat.S_IMODE(os.stat(again.inject_socket).st_mode) == 0o600


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xff\xff\xff\xff", id="over-long"),
        pytest.param(b"\0\0\0\2{x", id="not-json"),
        pytest.param(encode({"type": "NONSENSE"}), id="unknown-type"),
    ],
)
def test_item_82_a_bad_connection_is_closed_and_others_are_served(
    runtime: Runtime, data: bytes
) -> None:
    with runtime.connect() as silent, runtime.connect() as bad:
        assert (receive(silent) or {})["type"] == "CAPABILITIES"
        assert (receive(bad) or {})["type"] == "CAPABILITIES"
        bad.sendall(data)
        assert receive(bad) is None
        runtime.host.inject()


def test_item_83_a_partial_frame_leaves_the_instance_waiting(runtime: Runtime) -> None:
    for data in (b"", b"\0\0", encode({"type": "COMMIT"})[:-3]):
        with runtime.connect() as sock:
            receive(sock)
            sock.sendall(data)
    assert runtime.host.status()["gate"] == "closed"
    runtime.host.inject()


def test_item_84_cancel_exits_with_status_zero(runtime: Runtime) -> None:
    with runtime.connect() as sock:
        receive(sock)
        sock.sendall(encode({"type": "PREPARE", "task_id": "t"}))
        assert receive(sock) == {"type": "READY"}
        sock.sendall(encode({"type": "CANCEL", "reason": "rollback"}))
        assert receive(sock) is None
    assert runtime.wait() == 0


def test_item_84_a_connection_lost_after_ready_exits_with_another_status(
    runtime: Runtime,
) -> None:
    with runtime.connect() as sock:
        receive(sock)
        sock.sendall(encode({"type": "PREPARE", "task_id": "t"}))
        assert receive(sock) == {"type": "READY"}
    assert runtime.wait() == 1


def wait_until(condition: Callable[[], bool], deadline_s: float = 20.0) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def fetch(port: int, path: str, body: Any = None, **headers: str) -> tuple[int, Any, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.status, json.loads(reply.read()), reply.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read()), error.headers


def test_item_85_the_api_answers_503_until_the_session_then_serves(
    start_runtime: StartRuntime, free_port: int
) -> None:
    runtime = start_runtime(http_host="127.0.0.1", http_port=free_port, auth_key="not a key")
    status, body, headers = fetch(free_port, "/api/execute", {"command": ["true"]})
    assert (status, "error" in body, headers["Retry-After"]) == (503, True, "1")
    assert fetch(free_port, "/health")[1]["gate"] == "closed"
    runtime.close()
    runtime = start_runtime(http_host="127.0.0.1", http_port=free_port)
    with runtime.connect() as sock:
        receive(sock)
        sock.sendall(encode({"type": "COMMIT"}))
        assert receive(sock) == {"type": "STARTED"}
    wait_until(lambda: not runtime.inject_socket.exists())
    request = {"command": ["sh", "-c", "echo out; echo err >&2; exit 3"], "timeout": "10s"}
    status, body, _ = fetch(free_port, "/api/execute", request)
    assert (status, body["stdout"], body["stderr"], body["exit_code"]) == (200, "out\n", "err\n", 3)


def test_item_86_user_state_is_reported_whether_or_not_it_is_safe(
    start_runtime: StartRuntime,
) -> None:
    host = start_runtime(is_gated=False).host
    host.execute(
        "import threading, time; t = threading.Thread(target=time.sleep, args=(60,),"
        " daemon=True); t.start(); f = open('left.txt', 'w')"
    )
    status = host.status()
    kinds = {reason["kind"] for reason in status["reasons"]}
    assert {"thread", "interpreter", "open_file", "workspace"} <= kinds
    assert status["userStateLoaded"] is True
    assert status["safeToSnapshot"] is False
    assert status["details"]["workspaceEmpty"] is False


def test_item_86_a_running_execution_is_an_active_task(start_runtime: StartRuntime) -> None:
    host = start_runtime(is_gated=False).host
    stream = host.open("execute")
    host.send(stream, {"code": "print('go', flush=True)\nwhile True: pass"})
    host.message(stream)
    assert host.status()["activeTasks"] == 1
    host.send(stream, {"op": "interrupt"})
    host.messages(stream)


def test_item_87_the_workspace_is_judged_against_what_the_image_ships(
    start_runtime: StartRuntime,
) -> None:
    first = start_runtime()
    first.close()
    (first.workspace / "shipped.txt").write_text("part of the image")
    runtime = start_runtime()
    status = runtime.host.ask("checkpoint", op="baseline")
    assert (status["safeToSnapshot"], status["reasons"]) == (True, [])
    (runtime.workspace / "left.txt").write_text("somebody's")
    status = runtime.host.ask("checkpoint", op="baseline")
    assert status["safeToSnapshot"] is False
    assert [reason["kind"] for reason in status["reasons"]] == ["workspace"]


def test_item_88_a_key_that_cannot_be_used_lets_nobody_in(
    start_runtime: StartRuntime, free_port: int
) -> None:
    start_runtime(is_gated=False, http_host="127.0.0.1", http_port=free_port, auth_key="not a key")
    status, body, _ = fetch(free_port, "/api/files?path=.", Authorization="Bearer x")
    assert status == 503
    assert "key" in body["error"]


def test_item_89_a_token_is_taken_within_a_minute_of_its_end(
    start_runtime: StartRuntime, free_port: int
) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    start_runtime(is_gated=False, http_host="127.0.0.1", http_port=free_port, auth_key=pem.decode())
    now = int(time.time())
    for claims, expected in (
        ({"exp": now + 600}, 200),
        ({"exp": now - 30}, 200),
        ({"exp": now - 90}, 401),
        ({"exp": now + 600, "nbf": now + 30}, 200),
        ({}, 401),
    ):
        token = jwt.encode(claims, key, algorithm="RS256")
        status, body, _ = fetch(free_port, "/api/files?path=.", Authorization=f"Bearer {token}")
        assert (claims, status) == (claims, expected), body


def test_item_89_the_clock_is_set_before_started(start_runtime: StartRuntime) -> None:
    wrong = time.clock_gettime_ns(time.CLOCK_REALTIME)
    runtime = start_runtime(record_effects=True)
    runtime.host.inject(commit={"wall_clock_ns": wrong + 5, "held_ns": 0})
    lines = (runtime.directory / "effects").read_text().split("\n")
    assert [line.split()[0] for line in lines if line] == [
        *("add_entropy", "set_clock", "set_hostname", "set_machine_id", "renew_boot_id"),
        *("set_environment", "bind_workspace", "renew_processes"),
    ]
    assert int(lines[1].split()[1]) >= wrong + 5
