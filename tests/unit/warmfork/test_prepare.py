"""PREPARE: what goes into it, what is refused before a VM is started for it."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from agentd.errors import ErrorCode, InvariantError, UsageError
from agentd.guest.prepare import RefusalError, parse_prepare
from agentd.warmfork.prepare import Identity, encode_prepare, new_identity
from tests.adapters.guest.keys import make_key, public_pem


def _random(size: int) -> bytes:
    return bytes(range(256))[:size]


IDENTITY = new_identity("s-01ab", _random)


def _encode(**changes: Any) -> bytes:
    members: dict[str, Any] = {"env": {}, "files": {}, "metadata": {}, **changes}
    return encode_prepare(IDENTITY, members["env"], members["files"], members["metadata"])


def test_body_is_what_the_protocol_describes() -> None:
    body = json.loads(
        encode_prepare(IDENTITY, {"A": "ü"}, {"in/a.txt": b"\x00\xff"}, {"user": "u1"})
    )
    context = json.loads(body.pop("context"))
    assert body == {"type": "PREPARE", "task_id": "s-01ab", "env_overrides": {"A": "ü"}}
    assert context == {
        "session_id": "s-01ab",
        "hostname": "s-01ab",
        "machine_id": "0001020304054607880" + "90a0b0c0d0e0f",
        "entropy": base64.b64encode(_random(64)).decode(),
        "files": {"in/a.txt": "AP8="},
        "metadata": {"user": "u1"},
    }


def test_guest_understands_every_member() -> None:
    body = json.loads(
        encode_prepare(IDENTITY, {"A": "ü"}, {"in/a.txt": b"\x00\xff"}, {"user": "u1"})
    )
    plan = parse_prepare(body, workspace_root="/workspace")
    assert plan.session_id == plan.task_id == "s-01ab"
    assert (plan.hostname, plan.machine_id) == (IDENTITY.hostname, IDENTITY.machine_id)
    assert plan.entropy == IDENTITY.entropy
    assert plan.environment == {"A": "ü"}
    assert plan.files == {"in/a.txt": b"\x00\xff"}
    assert plan.metadata == {"user": "u1"}


def test_a_key_goes_into_the_context_and_never_into_the_environment() -> None:
    pem = public_pem(make_key("router"))
    body = json.loads(encode_prepare(IDENTITY, {"A": "b"}, {}, {}, pem))
    assert json.loads(body["context"])["auth_public_key"] == pem
    plan = parse_prepare(body, workspace_root="/workspace")
    assert (plan.auth_key, plan.environment) == (pem.strip(), {"A": "b"})


def test_a_guest_that_does_not_know_keys_refuses_the_session() -> None:
    """It reads the environment alone, and serves everybody if it starts."""
    body = json.loads(encode_prepare(IDENTITY, {}, {}, {}, public_pem(make_key("router"))))
    context = json.loads(body["context"])
    del context["auth_public_key"]
    with pytest.raises(RefusalError, match="PICOD_AUTH_PUBLIC_KEY"):
        parse_prepare(body | {"context": json.dumps(context)}, workspace_root="/workspace")


@pytest.mark.parametrize("key", ["garbage", "-----BEGIN PUBLIC KEY-----\n"], ids=["text", "PEM"])
def test_a_key_that_the_guest_refuses_is_refused(key: str) -> None:
    with pytest.raises(UsageError, match="public key of PICOD_AUTH_PUBLIC_KEY") as info:
        encode_prepare(IDENTITY, {}, {}, {}, key)
    assert info.value.code is ErrorCode.REQUEST_INVALID


@pytest.mark.parametrize(
    ("session_id", "hostname"),
    [
        ("abc", "abc"),
        ("Team/Job_7", "team-job-7"),
        ("--x--", "x"),
        ("_", "session"),
        ("a" * 100, "a" * 63),
        ("a" * 62 + "/b", "a" * 62),
    ],
)
def test_hostname_is_a_label_of_the_session_id(session_id: str, hostname: str) -> None:
    assert new_identity(session_id, _random).hostname == hostname


@pytest.mark.parametrize("session_id", ["", "a b", "ü", "a" * 254, "a\n"])
def test_session_id_that_the_guest_refuses_is_refused(session_id: str) -> None:
    with pytest.raises(UsageError) as info:
        new_identity(session_id, _random)
    assert info.value.code is ErrorCode.REQUEST_INVALID


def test_identities_differ_and_hide_their_secret() -> None:
    other = new_identity("s-01ab", lambda size: b"z" * size)
    assert other.machine_id != IDENTITY.machine_id
    assert other.entropy != IDENTITY.entropy
    assert len(IDENTITY.entropy) >= 32
    assert repr(IDENTITY.entropy) not in repr(IDENTITY)


@pytest.mark.parametrize(
    "name",
    [
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "PATH",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "AGENTCUBE_SESSION_GATE",
        "AGENTCUBE_SNAPSTART_BUILD",
        "AGENTCUBE_INJECT_SOCKET_PATH",
        "WARMFORK_READINESS_SOCKET",
        "PICOD_AUTH_PUBLIC_KEY",
        "SNAPSTART_X",
        "BASH_ENV",
        "",
        "1A",
        "A=B",
        "A B",
        "Ä",
        "A\n",
        "A" * 129,
    ],
)
def test_variable_that_the_guest_refuses_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="environment variable") as info:
        _encode(env={name: "x"})
    assert info.value.code is ErrorCode.REQUEST_INVALID


@pytest.mark.parametrize("name", ["A", "_a9", "OPENAI_API_KEY", "LDX", "MY_PATH"])
def test_ordinary_variable_is_taken(name: str) -> None:
    assert json.loads(_encode(env={name: "x"}))["env_overrides"] == {name: "x"}


@pytest.mark.parametrize(
    "path", ["", "/abs", "../x", "a/../../x", "a/", "a/.", ".", "a\0b"], ids=repr
)
def test_file_outside_the_workspace_is_refused(path: str) -> None:
    with pytest.raises(UsageError, match="below the workspace"):
        _encode(files={path: b""})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"env": {"A": "\0"}}, "NUL"),
        ({"env": {"A": "\ud800"}}, "Unicode"),
        ({"env": {"A": "x" * (1 << 20)}}, "environment takes"),
        ({"files": {"a": bytes(1 << 20), "b": b"1"}}, "files take"),
        ({"metadata": {"a": "x" * (4 << 20)}}, "of 4194304 bytes"),
        ({"metadata": {"a": "\udcff"}}, "Unicode"),
    ],
    ids=["nul", "surrogate", "large env", "large files", "large body", "surrogate metadata"],
)
def test_content_that_cannot_be_carried_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as info:
        _encode(**changes)
    assert info.value.code is ErrorCode.REQUEST_INVALID


@pytest.mark.parametrize(
    "identity",
    [
        Identity("s", "s", "0" * 32, bytes(31)),
        Identity("s", "s", "0" * 31, bytes(32)),
        Identity("s", "-s", "0" * 32, bytes(32)),
        Identity("", "s", "0" * 32, bytes(32)),
    ],
    ids=["entropy", "machine id", "hostname", "session id"],
)
def test_identity_made_wrongly_is_our_defect(identity: Identity) -> None:
    with pytest.raises(InvariantError):
        encode_prepare(identity, {}, {}, {})
