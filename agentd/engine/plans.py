"""Decide what may start on this node."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from agentd.errors import ErrorCode, TransientError, UsageError
from agentd.image.manifest import ImageManifest
from agentd.units import MIB


@dataclass(frozen=True)
class Need:
    """What a start takes. memory_bytes: expected private memory of the new machine.

    deadline_s: how long it may take, its wait for a turn included.
    """

    memory_bytes: int
    is_session: bool = True
    deadline_s: float = math.inf


@dataclass(frozen=True)
class Pace:
    """How long starts have their turn: smoothed mean and mean deviation, as RFC 6298 has them.

    Both are 0 before the first one.
    """

    mean_s: float = 0.0
    deviation_s: float = 0.0

    def after(self, took_s: float) -> Pace:
        """With one more start."""
        if not self.mean_s:
            return Pace(took_s, took_s / 2)
        deviation_s = self.deviation_s + (abs(self.mean_s - took_s) - self.deviation_s) / 4
        return Pace(self.mean_s + (took_s - self.mean_s) / 8, deviation_s)

    def after_cut(self, lasted_s: float) -> Pace:
        """With one more that was ended before it was over: it would have taken longer than that."""
        return self.after(lasted_s) if lasted_s > self.mean_s else self

    def expected_s(self, waiting: int, turns: int) -> float:
        """Until one more start would be over, behind those that wait for one of so many turns.

        Four deviations above the mean, as RFC 6298: hardly any that is let in comes too late.
        """
        return self.mean_s * ((waiting + 1) / turns + 1) + 4 * self.deviation_s


@dataclass(frozen=True)
class NodeLoad:
    """What is taken. reserved_bytes: promised to machines; template_bytes: memory images loaded.

    available_bytes: MemAvailable of /proc/meminfo (proc(5)). waiting: starts in the queue.
    expected_s: until one more start would be over. has_turn: it would not wait.
    """

    reserved_bytes: int
    template_bytes: int
    available_bytes: int
    sessions: int
    waiting: int
    expected_s: float = 0.0
    has_turn: bool = True


@dataclass(frozen=True)
class NodeLimits:
    """What there is. memory_bytes: budget; host_reserve_bytes: never taken from MemAvailable."""

    memory_bytes: int
    host_reserve_bytes: int
    max_sessions: int
    queued_forks: int


@dataclass(frozen=True)
class Refusal:
    """Why a start must not happen now."""

    code: ErrorCode
    what: str
    hint: str
    delay_s: float

    def error(self) -> TransientError:
        """As the exception for the caller."""
        return TransientError(self.code, self.what, hint=self.hint, delay_s=self.delay_s)


def choose_admission(need: Need, load: NodeLoad, limits: NodeLimits) -> Refusal | None:
    """None when the machine may start.

    The budget counts promises, because a fork that was just admitted has touched nothing yet;
    MemAvailable is asked as well, because others live on this host.
    """
    if need.is_session and load.sessions >= limits.max_sessions:
        return _full(f"{load.sessions} sessions run, the limit is {limits.max_sessions}")
    if load.waiting > limits.queued_forks:
        return _full(f"{load.waiting} starts wait already, the limit is {limits.queued_forks}", 1.0)
    # While a turn is free it may try: only starts that are over tell how long they take now.
    if not load.has_turn and load.expected_s > need.deadline_s:
        return Refusal(
            ErrorCode.NODE_FULL,
            f"starting a machine: all turns are taken, {load.waiting} starts wait; it would "
            f"take about {load.expected_s:.1f} s, and may take {need.deadline_s:g} s",
            "try again, or allow it more time (deadline_s)",
            load.expected_s - need.deadline_s,
        )
    taken = load.reserved_bytes + load.template_bytes
    if taken + need.memory_bytes > limits.memory_bytes:
        return _full(
            f"{taken // MIB} of {limits.memory_bytes // MIB} MiB are promised, "
            f"{need.memory_bytes // MIB} MiB more do not fit"
        )
    if load.available_bytes - limits.host_reserve_bytes < need.memory_bytes:
        return Refusal(
            ErrorCode.NO_MEMORY,
            f"starting a machine of {need.memory_bytes // MIB} MiB: the host has "
            f"{load.available_bytes // MIB} MiB available and keeps "
            f"{limits.host_reserve_bytes // MIB} MiB",
            "end sessions, or free memory on the host",
            5.0,
        )
    return None


def choose_parking(
    parked: Mapping[str, int], ready_templates: list[str], wanted: int
) -> tuple[str | None, list[str]]:
    """Which template to park one more fork of, which templates to give forks back of.

    Returns: the template that lacks most (None if none does), and one name per fork too many.
    """
    lacking = [(wanted - parked.get(name, 0), name) for name in ready_templates]
    most, name = max(lacking, default=(0, ""))
    surplus = [
        owner
        for owner, count in parked.items()
        for _ in range(count - (wanted if owner in ready_templates else 0))
    ]
    return (name if most > 0 else None), surplus


def can_take_parked(*, env: object, files: object, metadata: object) -> bool:
    """True when a parked fork may serve a request.

    A fork receives its identity when it starts; environment, files and metadata are part of that
    and cannot follow later without being different from a fresh fork. So only requests that bring
    none of them are served from parked forks.
    """
    return not (env or files or metadata)


def choose_duration(asked_s: float | None, default_s: float, max_s: float, member: str) -> float:
    """The seconds a session gets. Raises: UsageError if the wish is out of bounds."""
    if asked_s is None:
        return default_s
    if not 0 < asked_s <= max_s:
        raise UsageError(
            ErrorCode.REQUEST_INVALID,
            f"creating a session: {member} is {asked_s!r}, it must be in (0, {max_s:g}]",
            hint="ask for less, or raise the maximum in the daemon's settings",
        )
    return asked_s


def choose_machine(asked: int | None, default: int, max_value: int, member: str) -> int:
    """Memory or processors of a template. Raises: UsageError if the wish is out of bounds."""
    if asked is None:
        return default
    if not 0 < asked <= max_value:
        raise UsageError(
            ErrorCode.REQUEST_INVALID,
            f"building a template: {member} is {asked!r}, it must be in 1..{max_value}",
            hint="ask for less, or raise the maximum in the daemon's settings",
        )
    return asked


def require_memory(image: ImageManifest, memory_mib: int) -> None:
    """A guest smaller than what its image needs panics at boot with words that explain nothing.

    Raises: UsageError REQUEST_INVALID that names the least.
    """
    least_mib = least_memory_mib(image.kernel.size_bytes, image.initrd.size_bytes)
    if memory_mib < least_mib:
        raise UsageError(
            ErrorCode.REQUEST_INVALID,
            f"booting guest image {image.key[:12]}: memory_mib is {memory_mib}, its kernel "
            f"needs at least {least_mib} MiB to unpack it",
            hint=f"ask for memory_mib {least_mib} and what your code needs, or more",
        )


def least_memory_mib(kernel_bytes: int, initrd_bytes: int) -> int:
    """The least RAM in which Linux unpacks an initramfs that is not compressed.

    The archive stays in memory while its files go to a tmpfs, which takes at most half of what
    kernel and archive leave (Linux Documentation/filesystems/tmpfs.rst). 4 % more, since files take
    whole pages: the default image needs 277 to 280 MiB (measured), 281 by this rule.
    """
    return -(-(kernel_bytes + 3 * initrd_bytes * 104 // 100) // MIB)


def _full(what: str, delay_s: float = 5.0) -> Refusal:
    return Refusal(
        ErrorCode.NODE_FULL,
        f"starting a machine: {what}",
        "end sessions, or raise the limits of admission in the daemon's settings",
        delay_s,
    )
