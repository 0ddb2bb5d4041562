"""One owner per data directory, which cleans up after the former one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentd.errors import ConfigError, ErrorCode
from tests.adapters.store.support import leftovers, open_store, seal_one

HOLD = """
import sys
from pathlib import Path
from tests.adapters.store.support import open_store
store = open_store(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_told_who_holds_the_directory(data_dir: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(data_dir)]
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=f"by the process with pid {holder.pid};") as caught:
            open_store(data_dir)
        assert caught.value.code is ErrorCode.CONFIG_INVALID
        holder.kill()
        holder.wait(10)
    open_store(data_dir).close()


def test_a_second_store_in_this_process_is_refused(data_dir: Path) -> None:
    with open_store(data_dir), pytest.raises(ConfigError, match=f"pid {os.getpid()}"):
        open_store(data_dir)


def test_closing_twice_is_harmless(data_dir: Path) -> None:
    store = open_store(data_dir)
    store.close()
    store.close()


def test_a_child_that_runs_another_program_does_not_keep_the_lock(data_dir: Path) -> None:
    store = open_store(data_dir)
    with subprocess.Popen(["sleep", "30"], close_fds=False) as child:
        store.close()
        open_store(data_dir).close()
        child.kill()


def test_everything_is_private(data_dir: Path) -> None:
    open_store(data_dir).close()
    for path in (data_dir, data_dir / "templates", data_dir / "staging", data_dir / "trash"):
        assert path.stat().st_mode & 0o777 == 0o700
    assert (data_dir / "lock").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777], ids=oct)
def test_a_directory_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(mode)
    with pytest.raises(ConfigError, match="others may write it") as caught:
        open_store(tmp_path / "data")
    assert caught.value.code is ErrorCode.PERMISSION_DENIED


@pytest.mark.parametrize("part", ["templates", "staging", "trash", "lock"])
def test_a_symbolic_link_inside_is_refused(tmp_path: Path, part: str) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "data" / part).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError):
        open_store(tmp_path / "data")


def test_the_directory_itself_may_be_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "big-disk").mkdir(mode=0o700)
    (tmp_path / "data").symlink_to(tmp_path / "big-disk")
    seal_one(tmp_path / "data")
    assert leftovers(tmp_path / "big-disk") == ["templates/python"]


def test_what_a_former_owner_left_half_made_is_deleted(data_dir: Path) -> None:
    seal_one(data_dir)
    outside = data_dir.parent / "outside"
    outside.mkdir()
    for area in ("staging", "trash"):
        (data_dir / area / "x" / "deep").mkdir(parents=True)
        (data_dir / area / "x" / "deep" / "memory").write_bytes(b"half")
        (data_dir / area / "file").touch()
        (data_dir / area / "link").symlink_to(outside)
    with open_store(data_dir) as store:
        assert leftovers(data_dir) == ["templates/python"]
        store.verify("python")
    assert outside.exists()


def test_a_file_in_the_place_of_the_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(ConfigError, match="data"):
        open_store(tmp_path / "data")
