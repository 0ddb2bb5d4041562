"""Build sdist, wheel, and what is installed with them, from a clean clone of the last commit."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agentd.errors import ErrorCode, PermanentError
from tests.package.contents import (
    read_sdist,
    read_wheel,
    sdist_problems,
    wheel_problems,
)

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "build" / "release" / "bin"
LOCKS = ROOT / "deploy" / "locks"
_BUILD_S = 900


@dataclass(frozen=True)
class Made:
    """A release's files, and a directory with all that installing them needs."""

    version: str
    wheel: Path
    sdist: Path
    index: Path


def make(directory: Path) -> Made:
    """Build into a directory. Raises: PermanentError when what was built is not right."""
    with tempfile.TemporaryDirectory(prefix="snapstart-clone-") as scratch:
        clone = Path(scratch) / "clone"
        run("git", "clone", "--quiet", str(ROOT), str(clone))
        run(str(TOOLS / "python"), "-m", "build", "--outdir", str(directory), str(clone))
    [wheel], [sdist] = directory.glob("*.whl"), directory.glob("*.tar.gz")
    problems = wheel_problems(read_wheel(wheel)) + sdist_problems(read_sdist(sdist))
    if problems:
        raise PermanentError(ErrorCode.INTERNAL, f"building packages: {'; '.join(problems)}")
    index = fetch_dependencies(directory / "index")
    return Made(wheel.name.split("-")[1], wheel, sdist, index)


def fetch_dependencies(index: Path) -> Path:
    """Have what the locks for running, for building name in one directory."""
    python = str(TOOLS / "python")
    for name in ("runtime", "release"):
        lock = str(LOCKS / f"{name}.txt")
        words = ("-m", "pip", "download", "--quiet", "--require-hashes", "--no-deps")
        run(python, *words, "--dest", str(index), "-r", lock)
    shutil.copy(LOCKS / "runtime.txt", index / "runtime.txt")
    return index


def run(*argv: str, environ: Mapping[str, str] = os.environ) -> None:
    """Run one program. Raises: PermanentError with the end of what it said."""
    done = subprocess.run(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        timeout=_BUILD_S,
        check=False,
    )
    if done.returncode:
        said = done.stdout[-2000:].strip()
        message = f"running {' '.join(argv)!r}: status {done.returncode}, it said:\n{said}"
        raise PermanentError(ErrorCode.INTERNAL, message)
