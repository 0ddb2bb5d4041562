"""The files service against a real file system."""

from __future__ import annotations

import os
import stat
from typing import Any

import pytest

from tests.adapters.guest.conftest import Runtime, StartRuntime


@pytest.fixture
def opened(start_runtime: StartRuntime) -> Runtime:
    return start_runtime(is_gated=False)


def put(
    runtime: Runtime, path: str, data: bytes, size: int | None = None, **params: int
) -> dict[str, Any]:
    host = runtime.host
    size = len(data) if size is None else size
    stream = host.open("files", op="put", path=path, size=size, **params)
    host.write(stream, data)
    host.finish(stream)
    return host.message(stream) or {}


def get(runtime: Runtime, path: str) -> bytes:
    host = runtime.host
    stream = host.open("files", op="get", path=path)
    assert (host.message(stream) or {})["type"] == "file"
    return host.raw(stream)


def ask(runtime: Runtime, op: str, path: str) -> dict[str, Any]:
    return runtime.host.message(runtime.host.open("files", op=op, path=path)) or {}


def test_a_file_comes_back_as_it_was_put(opened: Runtime) -> None:
    marker = bytes.fromhex("f5534e4150f75354415254fb4d5831ff")
    data = os.urandom(700_000) + marker.join([b"a", b"b", b""])
    halves = data.replace(marker, marker[:8] + b"|" + marker[8:])
    assert put(opened, "a/b.bin", halves, mode=0o600) == {"type": "done", "size": len(halves)}
    assert get(opened, "a/b.bin") == halves
    assert stat.S_IMODE((opened.workspace / "a/b.bin").stat().st_mode) == 0o600


def test_a_file_that_holds_the_marker_can_be_read(opened: Runtime) -> None:
    data = bytes.fromhex("f5534e4150f75354415254fb4d5831ff") * 3
    (opened.workspace / "m").write_bytes(data)
    assert get(opened, "m") == data


def test_an_empty_file_can_be_put_and_read(opened: Runtime) -> None:
    assert put(opened, "empty", b"")["type"] == "done"
    assert get(opened, "empty") == b""


@pytest.mark.parametrize(("sent", "said"), [(5, 6), (6, 5)], ids=["too-few", "too-many"])
def test_a_put_of_another_size_leaves_the_old_file(opened: Runtime, sent: int, said: int) -> None:
    (opened.workspace / "f").write_text("old")
    assert put(opened, "f", b"x" * sent, size=said)["code"] == "invalid_path"
    assert os.listdir(opened.workspace) == ["f"]
    assert (opened.workspace / "f").read_text() == "old"


def test_a_put_that_is_reset_leaves_nothing(opened: Runtime) -> None:
    stream = opened.host.open("files", op="put", path="f", size=10)
    opened.host.write(stream, b"12345")
    opened.host.reset(stream)
    opened.host.status()
    assert os.listdir(opened.workspace) == []


def test_list_stat_and_remove(opened: Runtime) -> None:
    put(opened, "d/x", b"123")
    (entry,) = ask(opened, "list", "d")["entries"]
    assert (entry["path"], entry["kind"], entry["size"]) == (
        str(opened.workspace / "d/x"),
        "file",
        3,
    )
    assert ask(opened, "stat", "d")["entry"]["kind"] == "directory"
    assert ask(opened, "remove", "d") == {"type": "done"}
    assert ask(opened, "stat", "d")["code"] == "not_found"


@pytest.mark.parametrize(
    ("op", "path", "code"),
    [
        pytest.param("get", "none", "not_found", id="get-missing"),
        pytest.param("get", "d", "is_directory", id="get-directory"),
        pytest.param("get", "fifo", "invalid_path", id="get-fifo"),
        pytest.param("list", "f", "not_directory", id="list-file"),
        pytest.param("stat", "f/x", "not_directory", id="stat-below-file"),
        pytest.param("stat", "", "invalid_path", id="empty-path"),
        pytest.param("stat", "a\0b", "invalid_path", id="nul"),
        pytest.param("put", "d", "invalid_path", id="put-without-size"),
        pytest.param("twist", "f", "bad_request", id="unknown-op"),
    ],
)
def test_a_failure_says_which(opened: Runtime, op: str, path: str, code: str) -> None:
    (opened.workspace / "d").mkdir()
    (opened.workspace / "f").touch()
    os.mkfifo(opened.workspace / "fifo")
    assert ask(opened, op, path)["code"] == code


def test_files_are_refused_before_started(runtime: Runtime) -> None:
    with pytest.raises(ConnectionResetError, match="gate_closed"):
        ask(runtime, "stat", ".")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to give user code another user")
def test_a_link_of_user_code_gives_the_host_no_root_rights(start_runtime: StartRuntime) -> None:
    first = start_runtime()
    first.close()
    os.chmod(first.directory, 0o755)
    os.chown(first.workspace, 61234, 61234)
    secret = first.directory / "secret"
    secret.write_text("root's")
    secret.chmod(0o600)
    (first.workspace / "link").symlink_to(secret)
    runtime = start_runtime(is_gated=False, uid=61234, gid=61234)
    assert ask(runtime, "get", "link")["code"] == "permission_denied"
    assert put(runtime, str(first.directory / "new"), b"x")["code"] == "permission_denied"
    assert put(runtime, "mine", b"x")["type"] == "done"
    assert (runtime.workspace / "mine").stat().st_uid == 61234
