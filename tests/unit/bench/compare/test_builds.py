"""A side is built of its own revision, and measures its own code."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from agentd.errors import InvariantError, UsageError
from bench.compare import builds
from bench.compare.builds import (
    HERE,
    LOCK,
    Build,
    checked,
    make_build,
    needs_own_packages,
    python_of,
    remove_others,
    resolve,
)

ROOT = Path(__file__).parents[4]


def git(repository: Path, *argv: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    done = subprocess.run(
        ["git", *who, *argv], cwd=repository, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One commit of a project that cannot be built."""
    root = tmp_path / "project"
    (root / "bench").mkdir(parents=True)
    (root / "tests").mkdir()
    (root / "setup.py").write_text("raise SystemExit('the compiler is on strike')\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "one")
    monkeypatch.setattr(builds, "ROOT", root)
    return root


def test_this_checkout_is_itself_with_the_variables_of_its_side(tmp_path: Path) -> None:
    build = make_build(HERE, {"A": "1"}, tmp_path)
    assert build.tree == ROOT
    assert build.variables == {"PYTHONPATH": str(ROOT), "A": "1"}


@pytest.mark.parametrize("revision", ["no-such-branch", "--version", "a b"])
def test_an_unknown_revision_is_refused(repository: Path, revision: str) -> None:
    with pytest.raises(UsageError, match="git knows no such commit"):
        resolve(revision)


def test_a_revision_that_does_not_build_is_told_and_removed(
    repository: Path, tmp_path: Path
) -> None:
    into = tmp_path / "into"
    with pytest.raises(UsageError, match="the compiler is on strike"):
        make_build("HEAD", {}, into)
    assert [path.name for path in into.iterdir()] == ["build.log"]


def test_an_interrupted_build_is_removed(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(builds, "run_to_log", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_build("HEAD", {}, tmp_path / "into")
    assert list((tmp_path / "into").iterdir()) == []


def test_a_tree_whose_code_is_not_imported_is_not_measured(tmp_path: Path) -> None:
    build = Build("abc", tmp_path, python_of(tmp_path))
    with pytest.raises(InvariantError, match="which is not below"):
        checked(build)


def test_other_pins_need_an_environment_of_their_own(tmp_path: Path) -> None:
    assert not needs_own_packages(tmp_path)
    (tmp_path / LOCK).parent.mkdir(parents=True)
    (tmp_path / LOCK).write_bytes((ROOT / LOCK).read_bytes())
    assert not needs_own_packages(tmp_path)
    (tmp_path / LOCK).write_text("aiohttp==1\n")
    assert needs_own_packages(tmp_path)


def test_the_environment_of_the_tree_is_used_if_it_has_one(tmp_path: Path) -> None:
    own = tmp_path / ".venv" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.touch()
    assert python_of(tmp_path) == own


def test_builds_of_earlier_comparisons_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("old", "used"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".built").touch()
    (tmp_path / "notes").mkdir()
    remove_others(tmp_path, {tmp_path / "used"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "used"]
