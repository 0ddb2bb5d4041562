"""A server of ours is reaped on every path, its last words are kept."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.kube.process import Server, ServerDiedError, Spawner, tail_of

WAITS = "import signal, time; print('up', flush=True); time.sleep(600)"
DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); "
DIES = "import sys; print('what went wrong'); sys.exit(3)"


@pytest.fixture
def spawner() -> Iterator[Spawner]:
    spawner = Spawner()
    yield spawner
    spawner.close()


def server(code: str, directory: Path, spawner: Spawner) -> Server:
    return Server("one", [sys.executable, "-c", code], directory=directory, spawner=spawner)


def is_up(one: Server) -> bool:
    return one.log.exists() and "up" in one.log.read_text()


def test_one_that_ends_while_it_starts_is_an_error_with_its_words(
    tmp_path: Path, spawner: Spawner
) -> None:
    one = server(DIES, tmp_path, spawner)
    one.start()
    with pytest.raises(ServerDiedError, match=r"one ended with 3; the end of .*\n  what went"):
        one.wait_ready(lambda: False, deadline_s=30)
    one.stop()


def test_one_that_never_becomes_ready_is_an_error_after_its_deadline(
    tmp_path: Path, spawner: Spawner
) -> None:
    one = server(WAITS, tmp_path, spawner)
    one.start()
    with pytest.raises(ServerDiedError, match="not ready after 0 s"):
        one.wait_ready(lambda: False, deadline_s=0.0)
    one.stop()
    assert not one.is_running


def test_one_that_ignores_sigterm_is_killed(tmp_path: Path, spawner: Spawner) -> None:
    one = server(DEAF + "time.sleep(600)", tmp_path, spawner)
    one.start()
    one.wait_ready(lambda: is_up(one), deadline_s=30)
    pid = one.pid
    one.stop(deadline_s=0.1)
    assert pid is not None
    assert not psutil.pid_exists(pid)


def test_one_that_was_stopped_is_not_reported_dead(tmp_path: Path, spawner: Spawner) -> None:
    one = server(WAITS, tmp_path, spawner)
    one.check()
    one.start()
    one.kill()
    one.check()
    one.stop()
    assert one.pid is None


def test_it_outlives_the_thread_that_asked_for_it(tmp_path: Path, spawner: Spawner) -> None:
    one = server(WAITS, tmp_path, spawner)
    thread = threading.Thread(target=one.start)
    thread.start()
    thread.join()
    one.wait_ready(lambda: is_up(one), deadline_s=30)
    one.check()
    one.stop()


def test_a_program_that_does_not_exist_is_an_error_that_names_it(
    tmp_path: Path, spawner: Spawner
) -> None:
    one = Server("one", ["/no/such/program"], directory=tmp_path, spawner=spawner)
    one.start()
    with pytest.raises(ServerDiedError, match="/no/such/program"):
        one.wait_ready(lambda: False, deadline_s=30)
    one.stop()


def test_the_end_of_a_log_is_short(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert tail_of(log) == f"; {log} is empty"
    log.write_text("".join(f"line {number}\n" for number in range(100)))
    assert tail_of(log, lines=2) == f"; the end of {log}:\n  line 98\n  line 99\n"
