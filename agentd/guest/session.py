"""Hold what this instance has become: gate, workspace, environment, identity, key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from agentd.guest import sysapi
from agentd.guest.settings import Settings


@dataclass
class Session:
    """One instance's session; `is_open` says whether user code may run.

    auth_key: PEM of who signs the tokens that the HTTP interface demands; empty demands none.
    """

    settings: Settings
    is_open: bool
    workspace: str
    environment: dict[str, str] = field(default_factory=dict)
    task_id: str = ""
    session_id: str = ""
    auth_key: str = ""

    @property
    def is_injected(self) -> bool:
        """A host has made this instance somebody's."""
        return bool(self.task_id or self.session_id)

    @property
    def gate(self) -> str:
        """`open` or `closed`."""
        return "open" if self.is_open else "closed"

    @contextmanager
    def as_user(self) -> Iterator[None]:
        """Check file access inside the block as the user that the code runs as."""
        uid, gid = self.settings.uid, self.settings.gid
        if uid is None or gid is None:
            yield
            return
        sysapi.set_fs_ids(uid, gid)
        try:
            yield
        finally:
            sysapi.set_fs_ids(0, 0)
