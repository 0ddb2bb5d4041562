"""Hold the settings in force, and say which of them may change while the daemon runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from agentd.settings.groups import Admission, Api, Deadlines, Lifetime, Machines, Stop, Warm
from agentd.settings.whole import Settings
from agentd.typed_settings.group import values

# What is read each time it is needed. Everything else went into a process, a file, a socket, a
# pool of threads at the start.
RELOADABLE: Final = frozenset(
    {
        "api.max_file_bytes",
        "admission.memory_bytes",
        "admission.host_reserve_bytes",
        "admission.fork_private_bytes",
        "admission.queued_forks",
        "admission.max_sessions",
        *(f"lifetime.{name}" for name in Lifetime.__struct_fields__),
        *(f"deadlines.{name}" for name in Deadlines.__struct_fields__),
        "warm.count",
        *(f"log.{name}" for name in ("level", "format")),
    }
)


@dataclass(frozen=True)
class Reload:
    """What a reload does. settings: those in force from now on."""

    settings: Settings
    changed: tuple[str, ...]
    needs_restart: tuple[str, ...]


def plan_reload(old: Settings, new: Settings) -> Reload:
    """Take over what may change now; name the rest of what differs."""
    before = {(group, name): value for group, name, value in values(old)}
    differing = [(g, n) for g, n, value in values(new) if value != before[g, n]]
    taken = [one for one in differing if ".".join(one) in RELOADABLE]
    settings = old
    for group, name in taken:
        value = getattr(getattr(new, group), name)
        subject = msgspec.structs.replace(getattr(settings, group), **{name: value})
        settings = msgspec.structs.replace(settings, **{group: subject})
    left = [one for one in differing if one not in taken]
    return Reload(settings, tuple(map(".".join, taken)), tuple(map(".".join, left)))


class LiveSettings:
    """The settings in force. Who keeps a group, or a value, keeps what was in force then."""

    def __init__(self, settings: Settings) -> None:
        self.now = settings

    @property
    def api(self) -> Api:
        """The local API's."""
        return self.now.api

    @property
    def machines(self) -> Machines:
        """The shape of machines."""
        return self.now.machines

    @property
    def admission(self) -> Admission:
        """How much may run."""
        return self.now.admission

    @property
    def lifetime(self) -> Lifetime:
        """How long sessions live."""
        return self.now.lifetime

    @property
    def deadlines(self) -> Deadlines:
        """How long steps may take."""
        return self.now.deadlines

    @property
    def warm(self) -> Warm:
        """What is parked."""
        return self.now.warm

    @property
    def stop(self) -> Stop:
        """How long a stop may take."""
        return self.now.stop

    @property
    def image_cache_dir(self) -> Path:
        """Where images are."""
        return self.now.image_cache_dir
