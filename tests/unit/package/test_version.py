"""The version is git's, and there is one without git."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CONFIGURATION = ("pyproject.toml", ".git_archival.txt", ".gitattributes")
IDENTITY = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "tag.gpgSign=false")


def git(directory: Path, *words: str) -> None:
    argv = ["git", "-C", str(directory), *IDENTITY, *words]
    subprocess.run(argv, check=True, capture_output=True, timeout=30)


def version_of(directory: Path) -> str:
    argv = [sys.executable, "-m", "setuptools_scm"]
    done = subprocess.run(
        argv, cwd=directory, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def unpacked(repository: Path, directory: Path) -> Path:
    """What `git archive` gives, without a history."""
    git(repository, "archive", "--output", str(directory / "archive.tar"), "HEAD")
    with tarfile.open(directory / "archive.tar") as archive:
        archive.extractall(directory / "archive", filter="data")
    return directory / "archive"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits of what the version depends on, no tag."""
    directory = tmp_path / "repository"
    directory.mkdir()
    git(directory, "init", "--quiet")
    for name in CONFIGURATION:
        shutil.copy(ROOT / name, directory)
    (directory / "agentd").mkdir()
    (directory / "agentd" / "__init__.py").touch()
    git(directory, "add", "--all")
    git(directory, "commit", "--quiet", "--message", "one")
    git(directory, "commit", "--quiet", "--message", "two", "--allow-empty")
    return directory


def test_before_the_first_tag_it_counts_towards_the_first_release(repository: Path) -> None:
    assert re.fullmatch(r"0\.1\.0\.dev2\+g[0-9a-f]+", version_of(repository))


def test_a_tag_is_a_release_and_what_follows_comes_before_the_next(repository: Path) -> None:
    git(repository, "tag", "v0.1.0")
    assert version_of(repository) == "0.1.0"
    git(repository, "commit", "--quiet", "--message", "three", "--allow-empty")
    assert re.fullmatch(r"0\.1\.1\.dev1\+g[0-9a-f]+", version_of(repository))


def test_a_shallow_clone_has_one(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{repository}", "shallow")
    assert re.fullmatch(r"0\.1\.0\.dev1\+g[0-9a-f]+", version_of(tmp_path / "shallow"))


def test_an_archive_has_one(repository: Path, tmp_path: Path) -> None:
    assert version_of(unpacked(repository, tmp_path)) == "0.1.0.dev0"


def test_an_archive_of_a_release_has_that(repository: Path, tmp_path: Path) -> None:
    git(repository, "tag", "v0.2.0")
    assert version_of(unpacked(repository, tmp_path)) == "0.2.0"
