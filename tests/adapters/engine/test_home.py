"""The directories of a daemon, and who may have made them."""

from __future__ import annotations

import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agentd.engine.home import make_private_dir, read_boot_id, read_installation_id
from agentd.errors import ConfigError, ErrorCode

is_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def test_an_installation_keeps_its_id(tmp_path: Path) -> None:
    first = read_installation_id(tmp_path)
    assert str(uuid.UUID(first)) == first
    assert read_installation_id(tmp_path) == first
    assert [path.name for path in tmp_path.iterdir()] == ["installation-id"]


def test_whoever_comes_at_the_same_moment_reads_the_same_id(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(read_installation_id, [tmp_path] * 32))
    assert len(ids) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["installation-id"]


def test_an_id_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "installation-id").write_text("mine\n")
    with pytest.raises(ConfigError, match="'mine' is not a UUID"):
        read_installation_id(tmp_path)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none/installation-id") as caught:
        read_installation_id(tmp_path / "none")
    assert caught.value.code is ErrorCode.PERMISSION_DENIED


def test_a_directory_is_made_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "a/b"
    make_private_dir(path, "paths.data_dir")
    assert path.stat().st_mode & 0o777 == 0o700
    make_private_dir(path, "paths.data_dir")


def test_a_file_in_the_place_of_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(ConfigError, match=r"making paths\.run_dir"):
        make_private_dir(tmp_path / "a/b", "paths.run_dir")


@is_root
def test_the_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "theirs"
    path.mkdir()
    os.chown(path, 12345, 12345)
    with pytest.raises(ConfigError, match="belongs to uid 12345"):
        make_private_dir(path, "paths.run_dir")


def test_a_directory_that_others_can_replace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(ConfigError, match="others can replace"):
        make_private_dir(tmp_path / "open/mine", "paths.run_dir")


def test_the_kernel_names_its_boot() -> None:
    assert str(uuid.UUID(read_boot_id())) == read_boot_id()
