"""Choose how a clone of Cloud Hypervisor gets its memory, by what its version can do.

Members that a version does not know are ignored without a word, so that an older one would copy all
memory whatever it was told, and say that all is well. Hence nothing is asked of a version that is
not known to have it, and what was asked is looked at afterwards.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Final

from agentd.units import MIB

_NUMBERS: Final = re.compile(r"v?(\d+)\.(\d+)")


@dataclass(frozen=True, order=True)
class Version:
    """A release, as its release notes count them."""

    major: int
    minor: int = 0

    def __str__(self) -> str:
        return f"v{self.major}.{self.minor}"

    @classmethod
    def parse(cls, text: str) -> Version | None:
        """The release that a text such as "v53.0-12-gabc" or "53.0.0" begins with."""
        found = _NUMBERS.match(text)
        return None if found is None else cls(int(found[1]), int(found[2]))


OLDEST: Final = Version(48)  # whose snapshots were read, whose interface is spoken here
_ON_DEMAND_SINCE: Final = Version(52)
_MEMORY_IN_FILE: Final = 52
_KEEPS_CONSOLE_SINCE: Final = Version(53)
_OFFLOAD_SINCE: Final = Version(53)
_TAKES_WHAT_IS_THERE: Final = 53
# Builds between two releases call themselves by the later one; one that lacks it says so.
_COPY_ON_WRITE_SINCE: Final = Version(54)


class RestoreMode(enum.StrEnum):
    """How memory gets into a clone. COPY, ON_DEMAND, COPY_ON_WRITE are spelled as the API does.

    MAPPED: the clone's RAM is a private mapping of the template's, as of a file that a memory zone
    may name; nothing is left to be restored then. OFFLOAD: from the page server.
    """

    COPY_ON_WRITE = "CopyOnWrite"
    MAPPED = "Mapped"
    OFFLOAD = "Offload"
    ON_DEMAND = "OnDemand"
    COPY = "Copy"


SHARING: Final = frozenset({RestoreMode.COPY_ON_WRITE, RestoreMode.MAPPED})
"""Modes of which clones share what they do not write."""


@dataclass(frozen=True)
class RestoreFacts:
    """What decides.

    is_shared: the template's RAM can be written by others, as a page server demands. can_map: its
    layout is one that can be mapped. has_pages: there is a page server that knows, or is to find
    out, what clones touch. can_fault: clones may make a userfaultfd. has_huge: memory that is
    shared may have huge pages here. spoiled: modes that did not keep their promise on this host.
    """

    version: Version
    is_shared: bool
    can_map: bool
    has_pages: bool
    can_fault: bool
    has_huge: bool = False
    spoiled: frozenset[RestoreMode] = frozenset()


@dataclass(frozen=True)
class Choice:
    """A mode, why it is the best one; for the log."""

    mode: RestoreMode
    why: str


def choose_restore(facts: RestoreFacts) -> Choice:
    """The first of the modes, best first, that is possible.

    Mapping the template's memory costs a fault of the kernel for each page that is used, what is
    not written is shared, and nobody else has to live for it. A page server is better than the
    monitor's own thread only by what it knows of other clones.
    """
    possible = {
        RestoreMode.COPY_ON_WRITE: facts.version >= _COPY_ON_WRITE_SINCE,
        RestoreMode.MAPPED: facts.can_map,
        RestoreMode.OFFLOAD: facts.has_pages and facts.is_shared and can_offload(facts),
        RestoreMode.ON_DEMAND: facts.version >= _ON_DEMAND_SINCE and facts.can_fault,
    }
    for mode, is_possible in possible.items():
        if is_possible and mode not in facts.spoiled:
            return Choice(mode, _WHY[mode])
    return Choice(RestoreMode.COPY, _WHY[RestoreMode.COPY])


def can_offload(facts: RestoreFacts) -> bool:
    """Whether this version can be given its memory on this host, if all else is there.

    v53 takes for a clone's page whatever the kernel has there; of huge pages that is zeros, too.
    """
    has_traps = facts.version.major == _TAKES_WHAT_IS_THERE and facts.has_huge
    return facts.can_fault and facts.version >= _OFFLOAD_SINCE and not has_traps


_WHY: Final = {
    RestoreMode.COPY_ON_WRITE: "this version maps a snapshot's memory privately",
    RestoreMode.MAPPED: "the template's memory can be mapped as a private memory zone",
    RestoreMode.OFFLOAD: "it cannot be mapped, and the page server knows what clones touch",
    RestoreMode.ON_DEMAND: "this version reads pages when they are used",
    RestoreMode.COPY: "nothing better is possible here",
}


def has_shared(private_bytes: int, data_bytes: int) -> bool:
    """Whether a clone that has not run yet shares its template's memory.

    Versions copy everything instead, with no more than a line in their log, where they find that a
    machine cannot be mapped.
    Args: private_bytes: what the clone has for itself. data_bytes: of the template's memory, not
    counting pages of zeros.
    """
    return private_bytes < max(data_bytes // 2, 32 * MIB)


def keeps_memory_in_file(version: Version) -> bool:
    """Whether RAM that is nobody else's is a file in memory all the same, to which the limit of a
    file's size applies; v53 undid it.
    """
    return version.major == _MEMORY_IN_FILE


def keeps_console(version: Version) -> bool:
    """Whether a console that is a socket keeps its last output for whoever connects later."""
    return version >= _KEEPS_CONSOLE_SINCE
