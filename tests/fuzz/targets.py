"""Where the fuzz targets are, how they are built."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd.errors import ConfigError, ErrorCode, PermanentError

SOURCES: Final = Path(__file__).parents[1] / "native" / "pager"
PACKAGES: Final = ("clang", "libclang-rt-14-dev")
_COMPILERS: Final = ("clang", "clang-14")


@dataclass(frozen=True)
class Target:
    """One entry point with the inputs that are kept for it."""

    name: str

    @property
    def kept(self) -> Path:
        """The corpus in the repository."""
        return SOURCES / "corpus" / self.name

    @property
    def dictionary(self) -> Path:
        """Words of the format; may be missing."""
        return SOURCES / "corpus" / f"{self.name}.dict"

    def program(self, build: Path) -> Path:
        """What was built of it."""
        return build / f"fuzz_{self.name}"

    def inputs(self) -> list[Path]:
        """The kept files, in order."""
        return sorted(path for path in self.kept.glob("*") if path.is_file())


def all_targets() -> list[Target]:
    """One for each fuzz_NAME.c."""
    return [Target(path.stem.removeprefix("fuzz_")) for path in sorted(SOURCES.glob("fuzz_*.c"))]


def build(directory: Path, *, with_fuzzer: bool) -> None:
    """Compile every target into `directory`, under the sanitizers.

    Args: with_fuzzer: with libFuzzer and clang, else to replay inputs with the system's compiler.
    Raises: PermanentError if they do not compile.
    """
    command = ["make", "-s", "-j2", "-f", str(SOURCES / "fuzz.mk"), f"O={directory}"]
    command += ["FUZZER=1"] if with_fuzzer else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PermanentError(
            ErrorCode.INTERNAL,
            f"building the fuzz targets: make ended with {done.returncode}: {done.stderr}",
            hint="the compiler's words are above",
        )


def need_fuzzer() -> None:
    """Install libFuzzer's compiler if it is missing.

    Raises: ConfigError if it cannot be.
    """
    if any(_has_fuzzer(name) for name in _COMPILERS):
        return
    print(f"installing {' '.join(PACKAGES)}", file=sys.stderr)
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as exc:
        raise _missing("there is no apt-get") from exc
    if done.returncode != 0:
        raise _missing(done.stderr.strip())


def _has_fuzzer(compiler: str) -> bool:
    if shutil.which(compiler) is None:
        return False
    argv = [compiler, "-print-runtime-dir"]
    found = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
    return any(Path(found).glob("libclang_rt.fuzzer*.a"))


def _missing(what: str) -> ConfigError:
    return ConfigError(
        ErrorCode.PACKAGES_UNAVAILABLE,
        f"installing {' '.join(PACKAGES)} for the fuzzer failed: {what}",
        hint=f"as root: apt-get update && apt-get install {' '.join(PACKAGES)}",
    )
