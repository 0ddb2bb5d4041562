"""Report how far a long step is, and stop it when asked."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

NO_CANCEL: Final = -1


@dataclass(frozen=True)
class Progress:
    """Where a long step is. done_bytes, total_bytes: of guest memory; both 0 in other stages."""

    stage: str
    done_bytes: int = 0
    total_bytes: int = 0


OnProgress = Callable[[Progress], None]


def ignore_progress(_progress: Progress) -> None:
    """Report to nobody."""


@dataclass(frozen=True)
class Steps:
    """The caller's view of a long call.

    on_progress: called in the same thread after each step; what it raises ends the call.
    cancel_fd: borrowed; readable (an eventfd) means stop; NO_CANCEL for none.
    """

    on_progress: OnProgress = ignore_progress
    cancel_fd: int = NO_CANCEL

    def reached(self, stage: str, done_bytes: int = 0, total_bytes: int = 0) -> None:
        """Report, then stop if asked. Raises: OSError ECANCELED."""
        self.on_progress(Progress(stage, done_bytes, total_bytes))
        if self.cancel_fd >= 0 and _is_readable(self.cancel_fd):
            raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
