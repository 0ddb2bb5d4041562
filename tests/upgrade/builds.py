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
    """The revision, built from the history. None: the newest release that is an ancestor; before
    the first one, or without history, a copy of this checkout.
    """
    wanted = revision or _newest_release()
    if wanted is None:
        return copied_build(BUILDS / "copy")
    return _built(_git("rev-parse", "--verify", f"{wanted}^{{commit}}"))


def copied_build(root: Path) -> Build:
    """The same code in another place."""
    shutil.rmtree(root, ignore_errors=True)
    for name in _PACKAGES:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    return Build("a copy of this checkout", root)


def _newest_release() -> str | None:
    try:
        return _git("describe", "--tags", "--abbrev=0", "--match", "v[0-9]*", "HEAD^")
    except ValueError:
        return None


def _git(*words: str) -> str:
    """Raises: ValueError with git's words."""
    argv = ["git", "-C", str(ROOT), *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ValueError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout.strip()


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
