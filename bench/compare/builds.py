"""Make the sides of a comparison: a revision each, built in a directory of its own.

Both sides are measured by the benchmarks of this checkout: what differs is the product's code, its
pinned packages, its environment variables. So a revision older than the benchmarks can be measured,
and a series that calls what is not there yet is one that this side lacks.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agentd.errors import ErrorCode, InvariantError, PermanentError, UsageError
from bench.compare.process import last_words, run_to_log
from bench.machine import ROOT

# As a revision: this checkout with what is not committed.
HERE = "."
LOCK = Path("deploy", "locks", "dev.txt")
# Of this checkout on both sides: what measures.
_MEASURING = ("bench", "tests")
_BUILT = ".built"


@dataclass(frozen=True)
class Build:
    """One side. revision: a commit, or HERE. env: beside the variables that we have ourselves."""

    revision: str
    tree: Path
    python: Path
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def variables(self) -> dict[str, str]:
        """What its processes need to import its code, not that of this checkout."""
        return {"PYTHONPATH": str(self.tree), **self.env}


def make_build(revision: str, env: Mapping[str, str], into: Path) -> Build:
    """Build a revision below `into`, unless that was done before; half a build is removed.

    Raises: UsageError when git does not know the revision, or it does not build.
    """
    if revision == HERE:
        return checked(Build(HERE, ROOT, Path(sys.executable), env))
    commit = resolve(revision)
    tree = into / commit[:12]
    if not (tree / _BUILT).exists():
        _build(commit, tree, into / "build.log")
    for name in _MEASURING:
        shutil.rmtree(tree / name, ignore_errors=True)
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    return checked(Build(commit, tree, python_of(tree), env))


def resolve(revision: str) -> str:
    """The commit. Raises: UsageError."""
    argv = ["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(
            ErrorCode.REQUEST_INVALID,
            f"comparing with {revision!r}: git knows no such commit here",
            hint="name one of `git log`; a shallow clone lacks older ones (git fetch --unshallow)",
        )
    return done.stdout.strip()


def remove_others(into: Path, used: set[Path]) -> None:
    """Builds of earlier comparisons."""
    for tree in into.glob("*/" + _BUILT):
        if tree.parent not in used:
            shutil.rmtree(tree.parent)


def python_of(tree: Path) -> Path:
    """Ours when both pin the same packages, else that of the tree's own environment."""
    own = tree / ".venv" / "bin" / "python"
    return own if own.exists() else Path(sys.executable)


def needs_own_packages(tree: Path) -> bool:
    """It pins others than this checkout. A revision that pins nothing takes ours."""
    theirs = tree / LOCK
    return theirs.exists() and theirs.read_bytes() != (ROOT / LOCK).read_bytes()


def checked(build: Build) -> Build:
    """The same. Raises: InvariantError when it would measure another's code."""
    argv: list[str | Path] = [
        build.python,
        "-c",
        "import agentd._core as core; print(core.__file__)",
    ]
    env = {**os.environ, **build.variables}
    done = subprocess.run(
        argv, cwd=build.tree, env=env, capture_output=True, text=True, check=False
    )
    found = done.stdout.strip()
    if not found or not Path(found).is_relative_to(build.tree):
        raise InvariantError(
            f"measuring {build.revision[:12]}: its Python imports {found or done.stderr[-300:]!r}, "
            f"which is not below {str(build.tree)!r}; make native, make clean"
        )
    return build


def _build(commit: str, tree: Path, log: Path) -> None:
    shutil.rmtree(tree, ignore_errors=True)
    log.unlink(missing_ok=True)
    tree.mkdir(parents=True)
    try:
        _extract(commit, tree)
        if needs_own_packages(tree):
            _install(tree, log)
        _compile(commit, tree, log)
    except BaseException:
        shutil.rmtree(tree, ignore_errors=True)
        raise
    (tree / _BUILT).touch()


def _extract(commit: str, tree: Path) -> None:
    with subprocess.Popen(["git", "archive", commit], cwd=ROOT, stdout=subprocess.PIPE) as archive:
        subprocess.run(["tar", "-x", "-C", tree], stdin=archive.stdout, check=True)


def _install(tree: Path, log: Path) -> None:
    python = tree / ".venv" / "bin" / "python"
    pip: list[str | Path] = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    steps: list[list[str | Path]] = [
        [sys.executable, "-m", "venv", tree / ".venv"],
        [*pip, "--require-hashes", "-r", tree / LOCK],
    ]
    for argv in steps:
        if run_to_log(argv, cwd=tree, env={}, log=log):
            raise PermanentError(
                ErrorCode.PACKAGES_UNAVAILABLE,
                f"installing what {tree.name} pins: {last_words(log)}",
                hint="it needs a package index (pip config list)",
            )


def _compile(commit: str, tree: Path, log: Path) -> None:
    argv: list[str | Path] = [python_of(tree), "setup.py", "-q", "build_ext", "--inplace"]
    if run_to_log(argv, cwd=tree, env={"PYTHONPATH": str(tree)}, log=log):
        raise UsageError(
            ErrorCode.REQUEST_INVALID,
            f"building {commit[:12]} for a comparison: {last_words(log)}",
            hint=f"name a revision that builds; all of its words are in {log}",
        )
