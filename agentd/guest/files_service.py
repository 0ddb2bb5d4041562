"""Read and write files for the host, with the rights of the user that the code runs as."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Callable
from contextlib import suppress

from agentd.guest.session import Session
from agentd.guest.streams import MessageHandler, RefusedError, Stream
from agentd.guest.wire import JsonObject

_CHUNK_BYTES = 65536
_CODES = {
    errno.ENOENT: "not_found",
    errno.EISDIR: "is_directory",
    errno.ENOTDIR: "not_directory",
    errno.EACCES: "permission_denied",
    errno.EPERM: "permission_denied",
    errno.ENOSPC: "no_space",
    errno.EDQUOT: "no_space",
    errno.ENAMETOOLONG: "invalid_path",
    errno.ELOOP: "invalid_path",
}


class _InvalidPathError(Exception):
    pass


class FilesService(MessageHandler):
    """One operation on one path.

    `put` writes beside the target, renames over it when the whole size has come; an early end
    leaves the target as it was.
    """

    def __init__(self, stream: Stream, params: JsonObject, session: Session) -> None:
        super().__init__(stream)
        if not session.is_open:
            raise RefusedError("gate_closed", "no session has been injected yet")
        self._session = session
        self._fd = -1
        self._partial = ""
        self._left = 0
        self._is_reading = False
        self._params = params
        self._guard(self._begin)

    def _guard(self, operation: Callable[[], None]) -> None:
        try:
            with self._session.as_user():
                operation()
        except _InvalidPathError as exc:
            self._fail("invalid_path", str(exc))
        except OSError as exc:
            code = _CODES.get(exc.errno or 0, "io_error")
            what = f"{self._params.get('op')} {self._params.get('path')!r}"
            self._fail(code, f"{what}: {exc.strerror}")

    def _fail(self, code: str, message: str) -> None:
        self._release()
        self.stream.fail(code, message)

    def _release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._partial:
            with suppress(OSError):
                os.unlink(self._partial)
            self._partial = ""

    def _begin(self) -> None:
        self._path = self._absolute()
        match self._params.get("op"):
            case "put":
                self._begin_put()
            case "get":
                self._begin_get()
            case "list":
                entries = [_entry(os.path.join(self._path, name)) for name in _names(self._path)]
                self._answer({"type": "entries", "entries": entries})
            case "stat":
                self._answer({"type": "entry", "entry": _entry(self._path)})
            case "remove":
                _remove(self._path)
                self._answer({"type": "done"})
            case operation:
                self._fail("bad_request", f"files has no op {operation!r}")

    def _absolute(self) -> str:
        path = self._params.get("path")
        if not isinstance(path, str) or not path or "\0" in path:
            raise _InvalidPathError("member 'path' is not a path")
        return posixpath.normpath(posixpath.join(self._session.workspace, path))

    def _answer(self, message: JsonObject) -> None:
        self.stream.send(message)
        self.stream.finish()

    # -- put ------------------------------------------------------------------------------

    def _begin_put(self) -> None:
        size, mode = _count(self._params, "size", None), _count(self._params, "mode", 0o644)
        if mode > 0o7777:
            raise _InvalidPathError("member 'mode' is over 0o7777")
        if os.path.isdir(self._path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        partial = os.path.join(os.path.dirname(self._path), f".put-{os.urandom(8).hex()}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._fd = os.open(partial, flags, 0o600)
        self._partial = partial
        self._left = size
        os.fchmod(self._fd, mode)

    def on_data(self, data: bytes) -> None:
        """The next bytes of a put."""
        self.stream.consume(len(data))
        if self._partial:
            self._guard(lambda: self._write(data))

    def _write(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            raise _InvalidPathError(f"more bytes came than size {self._params['size']}")
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def on_finish(self) -> None:
        """The end of a put."""
        if self._partial:
            self._guard(self._complete)

    def _complete(self) -> None:
        if self._left:
            raise _InvalidPathError(f"{self._left} of {self._params['size']} bytes did not come")
        os.rename(self._partial, self._path)
        self._partial = ""
        self._release()
        self._answer({"type": "done", "size": self._params["size"]})

    # -- get ------------------------------------------------------------------------------

    def _begin_get(self) -> None:
        # O_NONBLOCK: opening a FIFO that user code has made must not stop the supervisor.
        self._fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        info = os.fstat(self._fd)
        if stat.S_ISDIR(info.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(info.st_mode):
            raise _InvalidPathError("it is not a regular file")
        self._left = info.st_size
        self._is_reading = True
        self.stream.send({"type": "file", "size": info.st_size})
        self._read()

    def on_writable(self) -> None:
        """The host has caught up."""
        if self._is_reading and self._fd >= 0:
            self._guard(self._read)

    def _read(self) -> None:
        while self._left and not self.stream.queued_bytes():
            data = os.read(self._fd, min(self._left, _CHUNK_BYTES))
            if not data:
                self._release()
                self.stream.reset("io_error", "the file became shorter while it was read")
                return
            self._left -= len(data)
            self.stream.write(data)
        if not self._left:
            self._release()
            self.stream.finish()

    def on_gone(self) -> None:
        """The stream ended early."""
        with self._session.as_user():
            self._release()


def _count(params: JsonObject, name: str, default: int | None) -> int:
    value = params.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _InvalidPathError(f"member {name!r} is not a whole number")
    return value


def _names(path: str) -> list[str]:
    return sorted(os.listdir(path))


def _entry(path: str) -> JsonObject:
    info = os.lstat(path)
    return {
        "path": path,
        "kind": _kind(info.st_mode),
        "size": info.st_size,
        "mtime_s": info.st_mtime,
    }


def _kind(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "link" if stat.S_ISLNK(mode) else "other"


def _remove(path: str) -> None:
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
        return
    for name in _names(path):
        _remove(os.path.join(path, name))
    os.rmdir(path)
