"""Keep the history of sessions, of builds."""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

_VERSION: Final = 1  # as `user_version`; 0 is a new file
_SCHEMA: Final = f"""
CREATE TABLE IF NOT EXISTS sessions (
    id TEXT PRIMARY KEY, template TEXT NOT NULL, mode TEXT NOT NULL, created_at_s REAL NOT NULL,
    start_ms REAL NOT NULL, ended_at_s REAL, reason TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS builds (
    build_id TEXT PRIMARY KEY, name TEXT NOT NULL, image TEXT NOT NULL,
    created_at_s REAL NOT NULL, settled_at_s REAL, outcome TEXT, detail TEXT
) STRICT;
PRAGMA user_version = {_VERSION};
"""
_KEEP_ROWS: Final = 100_000  # sessions; some 20 MB
_TRIM: Final = (
    "DELETE FROM sessions WHERE ended_at_s IS NOT NULL AND rowid <= "
    "(SELECT max(rowid) FROM sessions) - ?"
)

Statement = tuple[str, tuple[str | float | int, ...]]


class Records:
    """A SQLite database written by one thread of its own; nothing ever waits for it.

    It is history, not state: losing its last rows in a power failure (synchronous=NORMAL with a
    write-ahead log keeps it consistent) harms nobody. on_error: called in the thread, once per
    failed write, with words.
    """

    def __init__(self, path: Path, on_error: Callable[[str], None]) -> None:
        self._path = path
        self._on_error = on_error
        self._queue: queue.SimpleQueue[Statement | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="records", daemon=True)
        self._thread.start()

    def session_started(
        self, session_id: str, template: str, mode: str, created_at_s: float, start_ms: float
    ) -> None:
        """A session became ready."""
        self._queue.put(
            (
                "INSERT OR REPLACE INTO sessions(id, template, mode, created_at_s, start_ms) "
                "VALUES (?, ?, ?, ?, ?)",
                (session_id, template, mode, created_at_s, start_ms),
            )
        )

    def session_ended(self, session_id: str, ended_at_s: float, reason: str) -> None:
        """A session ended."""
        self._queue.put(
            (
                "UPDATE sessions SET ended_at_s = ?, reason = ? WHERE id = ?",
                (ended_at_s, reason, session_id),
            )
        )

    def template_begun(self, build_id: str, name: str, image: str, created_at_s: float) -> None:
        """A build began."""
        self._queue.put(
            (
                "INSERT OR REPLACE INTO builds(build_id, name, image, created_at_s) "
                "VALUES (?, ?, ?, ?)",
                (build_id, name, image, created_at_s),
            )
        )

    def template_settled(
        self, build_id: str, settled_at_s: float, outcome: str, detail: str
    ) -> None:
        """A build ended, or a template was removed."""
        self._queue.put(
            (
                "UPDATE builds SET settled_at_s = ?, outcome = ?, detail = ? WHERE build_id = ?",
                (settled_at_s, outcome, detail, build_id),
            )
        )

    def close(self, deadline_s: float) -> bool:
        """Write what is queued, end the thread. Blocks. Returns: False after the deadline."""
        self._queue.put(None)
        self._thread.join(deadline_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            connection = _open(self._path)
        except sqlite3.Error as exc:
            self._on_error(f"opening the history {str(self._path)!r}: {exc}, keeping none")
            while self._queue.get() is not None:
                pass
            return
        try:
            while (statement := self._queue.get()) is not None:
                self._write(connection, statement)
        finally:
            connection.close()

    def _write(self, connection: sqlite3.Connection, statement: Statement) -> None:
        try:
            with connection:
                connection.execute(*statement)
        except sqlite3.Error as exc:
            self._on_error(f"writing to the history {str(self._path)!r}: {exc}, ignoring")


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    try:
        ((found,),) = connection.execute("PRAGMA user_version")
        if found > _VERSION:
            raise sqlite3.DatabaseError(f"format {found}, this program writes format {_VERSION}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(_SCHEMA)
        with connection:
            connection.execute(_TRIM, (_KEEP_ROWS,))
    except BaseException:
        connection.close()
        raise
    return connection
