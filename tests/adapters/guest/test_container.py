"""The entry point of a container, as it is started there."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.guest.conftest import ROOT
from tests.adapters.guest.fake_host import encode
from tests.adapters.guest.test_items_77_89 import fetch, receive, wait_until

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start_container(tmp_path: Path) -> Iterator[Start]:
    processes = []

    def start(*arguments: str, **env: str) -> subprocess.Popen[bytes]:
        (tmp_path / "runtime.json").write_text(json.dumps({"uid": os.getuid(), "gid": os.getgid()}))
        (tmp_path / "workspace").mkdir(exist_ok=True)
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "SNAPSTART_RUNTIME_FILE": str(tmp_path / "runtime.json"),
            "SNAPSTART_WORKSPACE": str(tmp_path / "workspace"),
            **env,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "agentd.guest", *arguments],
            env=environment,
            stderr=subprocess.PIPE,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.terminate()
        process.communicate(timeout=20)


def answers(port: int) -> bool:
    try:
        fetch(port, "/health")
    except OSError:
        return False
    return True


def test_a_cold_boot_without_a_gate_serves_at_once(start_container: Start, free_port: int) -> None:
    process = start_container("--container", "--port", str(free_port), SECRET="s")
    wait_until(lambda: answers(free_port))
    assert fetch(free_port, "/health")[1]["gate"] == "open"
    command = {"command": "echo $SECRET; pwd"}
    status, body, _ = fetch(free_port, "/api/execute", command)
    assert (status, body["stdout"].split()[0], body["exit_code"]) == (200, "s", 0)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("gate", "path"),
    [
        ("AGENTCUBE_SESSION_GATE", "AGENTCUBE_INJECT_SOCKET_PATH"),
        ("AGENTCUBE_SNAPSTART_BUILD", "WARMFORK_READINESS_SOCKET"),
    ],
    ids=["v0.2", "v0.1"],
)
def test_a_gated_container_waits_for_its_session(
    start_container: Start, free_port: int, tmp_path: Path, gate: str, path: str
) -> None:
    inject = tmp_path / "i.sock"
    env = {gate: "true", path: str(inject)}
    start_container("--container", "--port", str(free_port), **env)
    wait_until(lambda: inject.exists() and answers(free_port))
    _, status, _ = fetch(free_port, "/runtime/status")
    assert (status["safeToSnapshot"], status["reasons"]) == (True, [])
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(inject))
        receive(sock)
        sock.sendall(encode({"type": "COMMIT"}))
        assert receive(sock) == {"type": "STARTED"}
    assert fetch(free_port, "/health")[1]["gate"] == "open"


def test_wrong_arguments_are_said(start_container: Start) -> None:
    process = start_container("--contained")
    assert b"usage" in process.communicate(timeout=20)[1]
    assert process.returncode == 2


def post(port: int, token: str | None) -> int:
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    return fetch(port, "/api/execute", {"command": ["true"]}, **headers)[0]


def test_a_token_must_be_signed_unexpired_and_expiring(
    start_container: Start, free_port: int
) -> None:
    jwt: Any = pytest.importorskip("jwt", reason="PyJWT is not installed")
    rsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa")
    from cryptography.hazmat.primitives import serialization

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    start_container("--container", "--port", str(free_port), PICOD_AUTH_PUBLIC_KEY=pem.decode())
    wait_until(lambda: answers(free_port))
    import time

    now = int(time.time())

    def sign(signer: Any, **claims: int) -> str:
        return str(jwt.encode(claims, signer, algorithm="RS256"))

    assert post(free_port, sign(key, exp=now + 60)) == 200
    assert post(free_port, sign(key, exp=now - 30)) == 200
    assert post(free_port, None) == 401
    assert post(free_port, sign(key, exp=now - 120)) == 401
    assert post(free_port, sign(key, iat=now)) == 401
    assert post(free_port, sign(other, exp=now + 60)) == 401
    assert post(free_port, str(jwt.encode({"exp": now + 60}, "x" * 32, algorithm="HS256"))) == 401
