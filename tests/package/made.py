"""Make a release: sdist, wheel, pins, component list, from a clean clone of the last commit."""

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
REQUIREMENTS, SBOM = "requirements.txt", "sbom.cdx.json"
_BUILD_S = 900


@dataclass(frozen=True)
class Made:
    """A release, whose files are alone in a directory or with what installing them needs."""

    version: str
    wheel: Path
    sdist: Path

    @property
    def directory(self) -> Path:
        """Where all of it is."""
        return self.wheel.parent


def make(directory: Path) -> Made:
    """Build into a directory. Raises: PermanentError when what was built is not right."""
    with tempfile.TemporaryDirectory(prefix="snapstart-release-") as scratch:
        clone = clone_to(Path(scratch) / "clone")
        out = Path(scratch) / "out"
        run(str(TOOLS / "python"), "-m", "build", "--outdir", str(out), str(clone))
        [wheel], [sdist] = out.glob("*.whl"), out.glob("*.tar.gz")
        problems = wheel_problems(read_wheel(wheel)) + sdist_problems(read_sdist(sdist))
        if problems:
            raise PermanentError(ErrorCode.INTERNAL, f"building packages: {'; '.join(problems)}")
        describe(wheel, out / SBOM, Path(scratch) / "environment")
        shutil.copy(clone / "deploy" / "locks" / "runtime.txt", out / REQUIREMENTS)
        shutil.copytree(out, directory, dirs_exist_ok=True)
    return Made(wheel.name.split("-")[1], directory / wheel.name, directory / sdist.name)


def clone_to(directory: Path) -> Path:
    """The last commit, nothing else of this checkout."""
    run("git", "clone", "--quiet", str(ROOT), str(directory))
    return directory


def describe(wheel: Path, output: Path, environment: Path) -> None:
    """Write the component list of a wheel with its pins."""
    run(str(TOOLS / "python"), "-m", "venv", "--without-pip", str(environment))
    python = str(environment / "bin" / "python")
    install = (str(TOOLS / "pip"), "--python", python, "install", "--quiet")
    run(*install, "--require-hashes", "-r", str(LOCKS / "runtime.txt"))
    run(*install, "--no-index", "--no-deps", str(wheel))
    sbom = (str(TOOLS / "python"), str(ROOT / "deploy" / "sbom"), "--name", "snapstart")
    run(*sbom, "--python", python, "--output", str(output))


def fetch_dependencies(directory: Path) -> Path:
    """Have what the locks for running, for building name in one directory."""
    for name in ("runtime", "release"):
        download = (str(TOOLS / "python"), "-m", "pip", "download", "--quiet", "--no-deps")
        lock = str(LOCKS / f"{name}.txt")
        run(*download, "--require-hashes", "--dest", str(directory), "-r", lock)
    return directory


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
