"""A session that brings the key of its HTTP interface."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.guest.conftest import Runtime, StartRuntime
from tests.adapters.guest.keys import make_key, make_token, public_pem
from tests.adapters.guest.test_execution import value_of
from tests.adapters.guest.test_items_77_89 import fetch, wait_until

PEM = public_pem(make_key("router"))
COMMAND = {"command": ["env"]}


@pytest.fixture
def served(start_runtime: StartRuntime, free_port: int) -> Runtime:
    """A runtime whose HTTP process serves already when the session comes."""
    return start_runtime(http_host="127.0.0.1", http_port=free_port)


def post(port: int, key: str = "", ends_in_s: float = 600) -> tuple[int, Any]:
    """Run a command with a token of that key, or with none."""
    headers = {"Authorization": f"Bearer {make_token(make_key(key), ends_in_s)}"} if key else {}
    status, body, _ = fetch(port, "/api/execute", COMMAND, **headers)
    return status, body


def test_each_request_needs_a_token_from_the_first_moment(served: Runtime, free_port: int) -> None:
    assert post(free_port)[0] == 503
    served.host.inject(context={"auth_public_key": PEM})
    assert post(free_port)[0] == 401
    assert post(free_port, "another")[0] == 401
    assert post(free_port, "router", -120)[0] == 401
    assert post(free_port, "router", -30)[0] == 200
    assert post(free_port, "router")[0] == 200
    assert fetch(free_port, "/api/files?path=.")[0] == 401
    assert fetch(free_port, "/api/unknown")[0] == 401
    assert fetch(free_port, "/health")[1] == {"status": "ok", "gate": "open"}
    assert fetch(free_port, "/runtime/status")[1]["gate"] == "open"


def test_code_does_not_see_the_key_and_the_host_needs_no_token(
    served: Runtime, free_port: int
) -> None:
    overrides = {"A": "b", "PICOD_AUTH_PUBLIC_KEY": ""}
    served.host.inject(context={"auth_public_key": PEM}, env_overrides=overrides)
    names = value_of(served.host.execute("import os; sorted(os.environ)"))
    assert "PICOD_AUTH_PUBLIC_KEY" not in names
    assert "'A'" in names
    assert "PICOD" not in post(free_port, "router")[1]["stdout"]


def test_the_sessions_key_takes_the_place_of_the_images(
    start_runtime: StartRuntime, free_port: int
) -> None:
    image_key = public_pem(make_key("image"))
    runtime = start_runtime(http_host="127.0.0.1", http_port=free_port, auth_key=image_key)
    runtime.host.inject(context={"auth_public_key": PEM})
    assert (post(free_port, "image")[0], post(free_port, "router")[0]) == (401, 200)


def test_without_a_key_the_images_stays(start_runtime: StartRuntime, free_port: int) -> None:
    image_key = public_pem(make_key("image"))
    runtime = start_runtime(http_host="127.0.0.1", http_port=free_port, auth_key=image_key)
    runtime.host.inject()
    assert (post(free_port)[0], post(free_port, "image")[0]) == (401, 200)


def test_an_http_process_that_died_is_followed_by_one_with_the_key(
    start_runtime: StartRuntime,
) -> None:
    runtime = start_runtime()
    runtime.host.inject(context={"auth_public_key": PEM})
    request = b"GET /api/files?path=. HTTP/1.0\r\n\r\n"
    for _ in range(2):
        stream = runtime.host.open("http")
        runtime.host.write(stream, request)
        assert b" 401 " in runtime.host.raw(stream).split(b"\r\n")[0]
        kill_http_process(runtime)


def kill_http_process(runtime: Runtime) -> None:
    """End the newest of its processes; wait until the runtime knows."""
    newest = children(runtime)[-1]
    os.kill(newest, signal.SIGKILL)
    wait_until(lambda: newest not in children(runtime))


def children(runtime: Runtime) -> list[int]:
    """The runtime's own, oldest first."""
    pid = runtime.process.pid
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def refused(runtime: Runtime, key: Any) -> str:
    """The message of the REJECT; the instance goes on waiting."""
    stream = runtime.host.open("inject")
    runtime.host.message(stream)
    context = json.dumps({"auth_public_key": key})
    runtime.host.send(stream, {"type": "PREPARE", "task_id": "t", "context": context})
    answer = runtime.host.message(stream)
    assert answer is not None
    assert (answer["type"], answer["reason"]) == ("REJECT", "parse_error")
    assert runtime.host.status()["gate"] == "closed"
    return str(answer["message"])


def test_a_key_that_no_token_can_be_checked_by_is_refused(runtime: Runtime) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    curve = ec.generate_private_key(ec.SECP256R1()).public_key()
    elliptic = curve.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    head, tail = "-----BEGIN PUBLIC KEY-----\n", "\n-----END PUBLIC KEY-----"
    for key, words in (
        ("", "no PEM"),
        (7, "not text"),
        (None, "no PEM"),
        ("garbage", "no PEM"),
        (f"{head}{tail}", "not a PEM public key"),
        (f"{head}QUJD{tail}", "not a PEM public key"),
        (head + "A" * 16384 + tail, "characters"),
        (elliptic, "not an RSA key"),
        (public_pem(make_key("weak", 1024)), "1024 of 2048 bits"),
    ):
        assert words in refused(runtime, key)
    runtime.host.inject(context={"auth_public_key": PEM})


@pytest.mark.parametrize("missing", ["jwt", "cryptography"])
def test_an_image_without_the_libraries_refuses_the_session(
    start_runtime: StartRuntime, missing: str
) -> None:
    first = start_runtime()
    first.close()
    (first.directory / f"{missing}.py").write_text("raise ImportError('it is not here')\n")
    runtime = start_runtime()
    assert "this image cannot check tokens: it is not here" in refused(runtime, PEM)
    runtime.host.inject()
