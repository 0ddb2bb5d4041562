"""Say what each release of Firecracker can do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from agentd.errors import ConfigError, ErrorCode
from agentd.vmm.require import ask_program, missing

_RELEASE: Final = re.compile(r"(?:Firecracker )?v?(\d+)\.(\d+)\.(\d+)(?:-[\w.+-]+)?")
HINT: Final = "install Firecracker, or set [monitor] firecracker_binary to where it is"


@dataclass(frozen=True, order=True)
class Version:
    """A release. One that is still in development counts as what it will be."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"

    @classmethod
    def parse(cls, text: str) -> Version | None:
        """From "1.16.1", "Firecracker v1.16.1", "v10.0.0"; None for anything else."""
        match = _RELEASE.fullmatch(text.strip())
        return cls(*map(int, match.groups())) if match else None


# The first whose devices a stock kernel finds by itself: through ACPI.
OLDEST: Final = Version(1, 8, 0)
# Formats of the state file, by release. One that is missing here says itself which it writes.
FORMATS: Final = {
    (1, 8): Version(2, 0, 0),
    (1, 9): Version(3, 0, 0),
    (1, 10): Version(4, 0, 0),
    (1, 11): Version(5, 0, 0),
    (1, 12): Version(6, 0, 0),
    (1, 13): Version(8, 0, 0),
    (1, 14): Version(8, 0, 0),
    (1, 15): Version(9, 0, 0),
    (1, 16): Version(10, 0, 0),
}


def has_network_overrides(version: Version) -> bool:
    """Whether a load may name other taps."""
    return version >= Version(1, 12, 0)


def has_vsock_override(version: Version) -> bool:
    """Whether a load may name another socket for the vsock."""
    return version >= Version(1, 16, 0)


def has_clock_realtime(version: Version) -> bool:
    """Whether a load may let the guest's clock catch up. Given to two older lines as well."""
    backports = {(1, 14): 4, (1, 15): 1}
    least = backports.get((version.major, version.minor))
    return version >= Version(1, 16, 0) or (least is not None and version.patch >= least)


@dataclass(frozen=True)
class Program:
    """An installed Firecracker. state_format: of the state files that it writes, and loads."""

    version: Version
    state_format: Version

    @property
    def description(self) -> str:
        """What templates depend on, in the form that `agentd.store.compatibility` compares."""
        state_format = f"{self.state_format.major}.{self.state_format.minor}"
        return f"{self.version} (snapshot format {state_format})"


def probe_program(binary: str) -> Program:
    """Ask a Firecracker who it is.

    Raises: ConfigError MONITOR_MISSING when it is absent or does not answer as one, CONFIG_INVALID
    when it is too old.
    """
    version = _ask(binary, "--version")
    if version < OLDEST:
        raise ConfigError(
            ErrorCode.CONFIG_INVALID,
            f"{binary!r} is Firecracker {version}, machines need {OLDEST} or newer",
            hint="install a newer Firecracker",
        )
    known = FORMATS.get((version.major, version.minor))
    return Program(version, known or _ask(binary, "--snapshot-version"))


def _ask(binary: str, question: str) -> Version:
    first = ask_program(binary, question, HINT).partition("\n")[0]
    answer = Version.parse(first)
    if answer is None:
        raise missing(f"asked {binary!r} for its {question}: it answered {first[:80]!r}", HINT)
    return answer
