"""Have a second build of the programs to change to and back."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
BUILDS: Final = ROOT / "build" / "upgrade"
COMMITS_BACK: Final = 10
_PACKAGES: Final = ("agentd", "controlplane")
_BUILD_S: Final = 900


@dataclass(frozen=True)
class Build:
    """Where its packages are, with their native parts in place."""

    name: str
    root: Path

    @property
    def pager(self) -> Path:
        """Its page server."""
        return self.root / "agentd" / "snap-pager"


def this_build() -> Build:
    """The checkout."""
    return Build("this checkout", ROOT)


def other_build(revision: str | None) -> Build:
    """An older one, built from the history; None: COMMITS_BACK before this one.

    Where there is no such revision, as in a shallow clone or an archive, a copy of this one.
    """
    commit = _find(revision or f"HEAD~{COMMITS_BACK}")
    if commit is None and revision is None:
        return copied_build(BUILDS / "copy")
    if commit is None:
        raise ValueError(f"there is no revision {revision!r} in this checkout")
    return _built(commit)


def copied_build(root: Path) -> Build:
    """The same code in another place, whose version says so."""
    shutil.rmtree(root, ignore_errors=True)
    for name in _PACKAGES:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    return Build("a copy of this checkout", root)


def _find(revision: str) -> str | None:
    argv = ["git", "-C", str(ROOT), "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _built(commit: str) -> Build:
    """Built once, kept below build/."""
    root = BUILDS / commit[:12]
    build = Build(f"revision {commit[:12]}", root)
    if build.pager.exists():
        return build
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    archive = ["git", "-C", str(ROOT), "archive", commit]
    with subprocess.Popen(archive, stdout=subprocess.PIPE) as packed:
        subprocess.run(["tar", "-x", "-C", str(root)], stdin=packed.stdout, check=True)
    argv = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    done = subprocess.run(
        argv, cwd=root, capture_output=True, text=True, check=False, timeout=_BUILD_S
    )
    if done.returncode != 0 or not build.pager.exists():
        raise RuntimeError(f"building revision {commit} in {root}:\n{done.stderr[-4000:]}")
    return build
