"""Bound what a machine's process may take of its host, whatever becomes of it.

Not a budget: admission keeps that. A monitor that was taken over, or has a leak, is ended at its
own bound instead of taking the host's memory, its process ids.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd.units import MIB
from agentd.wire.manifest import Machine

# Beside the guest's RAM. QEMU took 25 MiB when a fork had started, 63 MiB after it had imported the
# whole standard library with numpy under the emulator (512 MiB guest, 7.2.22); the rest is for page
# tables, kernel and initrd in the page cache, device state.
_OWN_BYTES: Final = 512 * MIB
# The emulator keeps at most 1 GiB of translated code (QEMU, tcg/region.c, size_code_gen_buffer()).
_TRANSLATED_BYTES: Final = 1024 * MIB
# Threads: one for each processor, the main loop's, RCU's, up to 64 for disk requests.
_THREADS: Final = 128
_CONTROLLERS: Final = ("memory", "pids")


@dataclass(frozen=True)
class Limits:
    """Of one machine's control group."""

    memory_bytes: int
    pids: int


def choose_limits(
    machine: Machine, *, is_emulated: bool = False, is_copied: bool = False
) -> Limits:
    """What no healthy machine reaches.

    is_emulated: its monitor translates the guest's code. is_copied: it writes the guest's memory to
    another memfd when it is frozen, which counts as its own.
    """
    translated = _TRANSLATED_BYTES if is_emulated else 0
    memory_bytes = machine.memory_mib * MIB * (2 if is_copied else 1)
    return Limits(memory_bytes + _OWN_BYTES + translated, _THREADS + machine.vcpus)


def offer_controllers(parent: Path) -> None:
    """Let the groups below this one have limits, where the host allows it.

    It does not while the group has processes of its own, unless it is the root, nor where a
    controller is not delegated or belongs to version 1 (cgroups(7)). Then machines have none.
    """
    for controller in _CONTROLLERS:
        with contextlib.suppress(OSError):
            (parent / "cgroup.subtree_control").write_text(f"+{controller}")


def write_limits(group: Path, limits: Limits) -> None:
    """Bound a group; what it has no controller for stays without. Raises: OSError of a refusal."""
    for name, value in (("memory.max", limits.memory_bytes), ("pids.max", limits.pids)):
        # Never made by us: a group without the controller has no such file.
        with contextlib.suppress(FileNotFoundError), (group / name).open("r+") as stream:
            stream.write(str(value))
