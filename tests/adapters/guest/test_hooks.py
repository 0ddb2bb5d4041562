"""Functions and files of image authors: what happens to those that misbehave."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.adapters.guest.conftest import Runtime, StartRuntime
from tests.adapters.guest.test_execution import value_of

AUTHOR = """
import os
import snapshot_restore_py

restored = []

@snapshot_restore_py.register_before_snapshot
def rest():
    if os.path.exists({fail!r} + "before"):
        raise ValueError("not at rest")

@snapshot_restore_py.register_after_restore
def renew():
    restored.append((os.getpid(), os.environ.get("TOKEN"), os.getcwd()))
    if os.path.exists({fail!r} + "after"):
        raise OSError("no network")
"""
LEAVES_OPEN = """
kept = open(__file__)
"""
LEAVES_GARBAGE = """
class Cycle:
    def __init__(self):
        self.file, self.me = open(__file__), self
Cycle()
"""


@pytest.fixture
def authored(start_runtime: StartRuntime) -> Runtime:
    """A runtime with the module `author`, whose hooks fail once a file is there."""
    runtime = start_runtime()
    runtime.close()
    fail = str(runtime.directory / "fail-")
    (runtime.directory / "author.py").write_text(AUTHOR.format(fail=fail))
    return start_runtime(preload=["author"])


def fail(runtime: Runtime, when: str) -> Path:
    path = runtime.directory / f"fail-{when}"
    path.touch()
    return path


def test_a_hook_that_fails_before_a_snapshot_is_named_and_may_succeed_later(
    authored: Runtime,
) -> None:
    switch = fail(authored, "before")
    answer = authored.host.ask("checkpoint", op="baseline")
    assert (answer["type"], answer["code"]) == ("failed", "hook_failed")
    assert answer["message"] == "interpreter: author.rest raised ValueError: not at rest"
    switch.unlink()
    assert authored.host.ask("checkpoint", op="baseline")["safeToSnapshot"] is True


def test_a_hook_that_fails_after_a_restore_is_told_to_the_host(authored: Runtime) -> None:
    fail(authored, "after")
    stream = authored.host.open("inject")
    authored.host.message(stream)
    authored.host.send(stream, {"type": "COMMIT"})
    with pytest.raises(ConnectionResetError, match="commit_failed"):
        authored.host.message(stream)
    reason = "interpreter: author.renew raised OSError: no network"
    assert authored.host.resets[stream]["message"] == reason
    assert authored.wait() == 1


def test_hooks_after_a_restore_run_in_the_interpreter_that_follows_a_lost_one(
    authored: Runtime,
) -> None:
    authored.host.inject(env_overrides={"TOKEN": "t"})
    code = "import author, os; author.restored[-1] == (os.getpid(), 't', os.getcwd())"
    assert value_of(authored.host.execute(code)) == "True"
    authored.host.execute("import os; os._exit(3)")
    assert value_of(authored.host.execute(code)) == "True"


def test_an_interpreter_whose_hooks_fail_serves_nothing_until_they_succeed(
    authored: Runtime,
) -> None:
    authored.host.inject()
    switch = fail(authored, "after")
    authored.host.execute("import os; os._exit(3)")
    (answer,) = authored.host.execute("1")
    assert (answer["type"], answer["code"]) == ("failed", "hook_failed")
    assert "author.renew raised OSError: no network" in answer["message"]
    switch.unlink()
    messages = authored.host.execute("1")
    while messages[0]["type"] == "failed":
        messages = authored.host.execute("1")
    assert value_of(messages) == "1"


def test_a_descriptor_left_open_by_a_preload_is_a_reason_against_a_snapshot(
    start_runtime: StartRuntime,
) -> None:
    runtime = start_runtime()
    runtime.close()
    (runtime.directory / "leaves_open.py").write_text(LEAVES_OPEN)
    (runtime.directory / "leaves_garbage.py").write_text(LEAVES_GARBAGE)
    runtime = start_runtime(preload=["leaves_open", "leaves_garbage"])
    status = runtime.host.status()
    assert status["safeToSnapshot"] is False
    (reason,) = status["reasons"]
    assert reason["kind"] == "interpreter"
    assert reason["detail"].startswith("preloading leaves_open: LeftOpenError: it leaves open")
    assert "leaves_open.py" in reason["detail"]


def test_bytes_that_are_no_message_reset_the_stream_only(runtime: Runtime) -> None:
    stream = runtime.host.open("checkpoint")
    runtime.host.write(stream, b"\0\0\0\2{x")
    with pytest.raises(ConnectionResetError, match="bad_message"):
        runtime.host.message(stream)
    assert runtime.host.status()["gate"] == "closed"
