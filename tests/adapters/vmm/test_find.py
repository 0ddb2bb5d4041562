"""Machines among the processes of a host."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agentd.vmm.find import Finder, named_by_option, open_recorded
from agentd.vmm.qemu_argv import marker
from agentd.vmm.vmm import VmRecord

OTHER_UID = 1_900_000_123
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run others' processes")


@contextmanager
def running(program: Path, *arguments: str, user: int | None = None) -> Iterator[int]:
    with subprocess.Popen([program, *arguments], user=user) as one:
        try:
            yield one.pid
        finally:
            one.kill()


@pytest.fixture
def installation() -> str:
    return uuid.uuid4().hex


def finder(installation: str, user_of: Callable[[str], tuple[int, int] | None]) -> Finder:
    return Finder(installation, Path("/vms"), user_of, named_by_option)


def find_one(found_by: Finder) -> VmRecord:
    """execve(2) lets its parent go on a moment before /proc shows the new arguments."""
    while not (found := found_by.find_all()):
        time.sleep(0.01)
    (record,) = found
    return record


def test_a_machine_is_found_by_its_marker(idle_program: Path, installation: str) -> None:
    name = f"guest={marker(installation, 's-1')}"
    with running(idle_program, "-name", name, "-M", "pc") as pid:
        record = find_one(finder(installation, lambda _: None))
        assert (record.vm_id, record.pid, record.run_dir) == ("s-1", pid, Path("/vms/s-1"))
        pidfd = open_recorded(record)
        assert pidfd is not None
        os.close(pidfd)
    assert finder(installation, lambda _: None).find_all() == []
    assert open_recorded(record) is None


def test_what_is_no_marker_of_ours_is_no_machine(idle_program: Path, installation: str) -> None:
    ours = marker(installation, "s-1")
    with (
        running(idle_program, ours),
        running(idle_program, "-M", "pc", "-name", ours),
        running(idle_program, "-name"),
        running(idle_program, "-name", marker(uuid.uuid4().hex, "s-1")),
        running(idle_program, "-name", marker(installation, "..")),
    ):
        assert finder(installation, lambda _: None).find_all() == []


@as_root
def test_only_processes_of_the_machines_own_user_count(
    idle_program: Path, installation: str
) -> None:
    # In a directory that everybody may enter, unlike those of tests.
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        program = Path(shutil.copy(idle_program, directory))
        check_users(program, installation)


def check_users(program: Path, installation: str) -> None:
    with running(program, "-name", marker(installation, "s-1"), user=OTHER_UID) as pid:
        assert finder(installation, lambda _: None).find_all() == []
        assert finder(installation, lambda _: (OTHER_UID + 1, 0)).find_all() == []
        record = find_one(finder(installation, lambda _: (OTHER_UID, 0)))
        assert record.pid == pid


def test_a_pid_that_was_given_out_again_is_refused(idle_program: Path, tmp_path: Path) -> None:
    with running(idle_program) as pid:
        record = VmRecord("s-1", tmp_path, pid, 1)
        assert open_recorded(record) is None
        assert open_recorded(replace(record, pid=2**22 + 1)) is None
