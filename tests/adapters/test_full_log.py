"""What cannot be logged harms nobody, and is followed by what can."""

from __future__ import annotations

import errno
import io

import structlog

from agentd.log_setup import configure_logging


class FullDisk(io.StringIO):
    is_full = True

    def write(self, text: str) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)

    def flush(self) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")


def test_a_log_that_is_full_goes_on_once_there_is_room() -> None:
    disk = FullDisk()
    before = structlog.get_config()
    try:
        configure_logging("info", "json", disk)
        structlog.get_logger().info("nobody.hears")
        disk.is_full = False
        structlog.get_logger().info("somebody.hears")
    finally:
        structlog.configure(**before)
    assert "nobody.hears" not in disk.getvalue()
    assert '"event": "somebody.hears"' in disk.getvalue()
