"""A page server is adopted, or started, and never ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.errors import ConfigError, ErrorCode, TransientError
from agentd.pager.client import PagerClient
from agentd.pager.places import PagerPlace
from agentd.pager.process import PagerProcess, is_command, is_running
from tests.fakes.pager import FakePager
from tests.fakes.pager_process import write_program

SHORT_S = 0.6


class Node:
    """Steps that were told, and programs to be ended with the test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.steps: list[tuple[str, dict[str, object]]] = []
        self._made: list[PagerProcess] = []

    def pager(self, how: str = "serve", **more: Path) -> PagerProcess:
        binary = write_program(self.root / f"snap-pager-{how}", how)
        place = PagerPlace(
            more.get("binary", binary),
            self.root / "pager.sock",
            more.get("journal_dir", self.root / "journal"),
            hand_over_s=10.0,
            readers=2,
        )
        self._made.append(PagerProcess(place, self.root / "pager.log", self.step))
        return self._made[-1]

    def step(self, event: str, /, **details: str | int | float) -> None:
        self.steps.append((event, details))

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.steps]

    @property
    def started(self) -> list[int]:
        return [int(str(one["pid"])) for event, one in self.steps if event == "pager.started"]

    def end(self) -> None:
        """End the programs: nothing of ours does."""
        for pid in self.started:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.end()


def is_alive(pid: int) -> bool:
    return os.waitpid(pid, os.WNOHANG) == (0, 0)


async def test_one_that_answers_is_used(node: Node) -> None:
    async with FakePager(node.root).serving():
        about = await node.pager().ensure()
    assert about.pid == os.getpid()
    assert node.events == []


async def test_one_is_started_where_none_answers_and_outlives_us(node: Node) -> None:
    pager = node.pager()
    about = await pager.ensure()
    (pid,) = node.started
    assert about.pid == pid
    assert os.getsid(pid) == pid, "the end of our session would end it"
    pager.close()
    pager.close()
    assert is_alive(pid)
    assert (await PagerClient(node.root / "pager.sock").hello()).pid == pid


async def test_the_next_daemon_uses_what_this_one_started(node: Node) -> None:
    first, second = node.pager(), node.pager()
    await first.ensure()
    first.close()
    assert (await second.ensure()).pid == node.started[0]
    assert node.events == ["pager.started"]


async def test_one_that_runs_and_does_not_answer_gets_no_second_beside_it(node: Node) -> None:
    first, second = node.pager("mute"), node.pager("serve")
    with pytest.raises(TransientError, match="did not answer in time"):
        await first.ensure(deadline_s=SHORT_S)
    with pytest.raises(TransientError, match="did not answer in time"):
        await second.ensure(deadline_s=SHORT_S)
    (pid,) = node.started
    assert is_alive(pid), "machines may be waiting for it"
    first.close()


async def test_one_that_begins_late_is_waited_for(node: Node) -> None:
    pager = node.pager("late")
    assert (await pager.ensure()).pid == node.started[0]
    pager.close()


async def test_one_that_ends_at_once_is_reported_with_its_last_words(node: Node) -> None:
    with pytest.raises(TransientError, match=r"it ended at once.*not on tmpfs"):
        await node.pager("exit").ensure()
    assert node.events == ["pager.started", "pager.failed"]
    assert node.steps[1][1]["status"] == "exited with status 3"


async def test_one_that_dies_is_reaped_told_and_may_be_started_again(node: Node) -> None:
    pager = node.pager()
    await pager.ensure()
    os.kill(node.started[0], signal.SIGKILL)
    while "pager.failed" not in node.events:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert node.steps[1][1] == {"pid": node.started[0], "status": "was killed by SIGKILL"}
    assert (await pager.ensure()).pid == node.started[1]
    pager.close()


async def test_it_gets_a_private_journal_and_none_of_our_environment(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/agentd/notify")
    pager = node.pager()
    await pager.ensure()
    pager.close()
    assert (node.root / "journal").stat().st_mode & 0o777 == 0o700
    environ = Path(f"/proc/{node.started[0]}/environ").read_bytes()  # noqa: ASYNC240
    assert b"NOTIFY_SOCKET" not in environ, "what it keeps with systemd would be agentd's"


async def test_a_program_that_is_not_there_is_a_setting_to_correct(node: Node) -> None:
    with pytest.raises(ConfigError, match=r"pager\.binary") as caught:
        await node.pager(binary=node.root / "none").ensure()
    assert caught.value.code is ErrorCode.CONFIG_INVALID


@pytest.mark.parametrize("what", ["link", "file", "no parent"])
async def test_a_journal_directory_that_somebody_else_may_have_made_is_refused(
    node: Node, what: str
) -> None:
    path = node.root / "journal"
    if what == "link":
        (node.root / "theirs").mkdir()
        path.symlink_to(node.root / "theirs")
    elif what == "file":
        path.write_text("")
    else:
        path = path / "below"
    with pytest.raises(ConfigError, match=r"pager\.journal_dir"):
        await node.pager(journal_dir=path).ensure()
    assert node.events == []


async def test_a_log_that_is_a_link_is_not_followed(node: Node) -> None:
    (node.root / "pager.log").symlink_to(node.root / "elsewhere")
    with pytest.raises(ConfigError, match=r"pager\.log"):
        await node.pager().ensure()
    assert not (node.root / "elsewhere").exists()


async def test_a_start_that_is_cancelled_leaves_what_runs(node: Node) -> None:
    pager = node.pager("mute")
    starting = asyncio.create_task(pager.ensure(deadline_s=60.0))
    while not node.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert is_alive(node.started[0])
    pager.close()


@pytest.mark.parametrize(
    ("argv", "is_one"),
    [
        (["/opt/x/snap-pager", "supervise", "--control", "/c", "--journal", "/j"], True),
        (["snap-pager", "serve", "--journal", "/j", "--control", "/c"], True),
        (["snap-pager", "serve", "--control", "/d"], False),
        (["snap-pager", "serve", "--control"], False),
        (["vi", "--control", "/c"], False),
        (["snap-pager", "working-set"], False),
        ([], False),
    ],
)
def test_a_page_server_is_known_by_its_name_and_socket(argv: list[str], is_one: bool) -> None:
    assert is_command(argv, "/c") is is_one


def test_none_runs_for_a_socket_that_nobody_was_given(tmp_path: Path) -> None:
    assert not is_running(tmp_path / "pager.sock")
