"""Describe every request of the local API as a value, without sending it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, Generic, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from agentd.client import failures
from agentd.client.tracing import trace_headers
from agentd.errors import ErrorCode, UsageError
from agentd.units import MIB
from agentd.wire import api

T = TypeVar("T")

DEFAULT_SOCKET = "/run/snapstart/agentd.sock"
REQUEST_TIMEOUT_S = 30.0
START_TIMEOUT_S = 60.0
TRANSFER_TIMEOUT_S = 600.0
# The guest takes 2 s to kill code that ignores its interrupt; the rest is for a queued execution.
EXECUTE_GRACE_S = 30.0
# One rich result is at most 10 MiB by default; a JSON reply beyond this is a mistake somewhere.
MAX_REPLY_BYTES = 64 * MIB
_PIECE_BYTES = 256 * 1024
NDJSON = "application/x-ndjson"


def choose_socket(environ: Mapping[str, str], has_own_daemon: bool) -> str:
    """The daemon's socket: SNAPSTART_SOCKET, the user's own daemon if it has one, the node's."""
    if environ.get("SNAPSTART_SOCKET"):
        return environ["SNAPSTART_SOCKET"]
    return own_socket(environ, os.geteuid()) if has_own_daemon else DEFAULT_SOCKET


def own_socket(environ: Mapping[str, str], uid: int) -> str:
    """Where the daemon of an ordinary user listens."""
    run_dir = environ.get("XDG_RUNTIME_DIR") or f"/tmp/snapstart-{uid}"
    return f"{run_dir}/snapstart/agentd.sock"


def default_socket() -> str:
    """The socket for this process's user and environment."""
    uid = os.geteuid()
    return choose_socket(os.environ, uid != 0 and _is_mine(own_socket(os.environ, uid), uid))


def _is_mine(path: str, uid: int) -> bool:
    # Somebody else may have made this path in /tmp before us.
    try:
        return os.stat(path).st_uid == uid
    except OSError:
        return False


class Upload:
    """Exactly the bytes that a file holds from where it stands, whatever happens to it meanwhile.

    Args: file: borrowed; one without a size of its own (a pipe) is read at once.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        try:
            self.size_bytes = os.fstat(file.fileno()).st_size - file.tell()
        except OSError:
            raw = file.read()
            self._file, self.size_bytes = io.BytesIO(raw), len(raw)

    def pieces(self) -> Iterator[bytes]:
        """The content. Raises: UsageError if the file shrinks under us."""
        left = self.size_bytes
        while left > 0:
            piece = self._file.read(min(left, _PIECE_BYTES))
            if not piece:
                raise UsageError(
                    ErrorCode.REQUEST_INVALID,
                    f"reading the file to upload: it lost {left} bytes meanwhile",
                    hint="upload a copy that nobody changes",
                )
            left -= len(piece)
            yield piece


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request and how to read its reply.

    Args: what: the attempt in words, for errors. timeout_s: seconds for the whole
    exchange, None for no limit. limit_bytes: of the reply.
    """

    what: str
    method: str
    path: str
    decode: Callable[[bytes], T]
    body: bytes | Upload | None = None
    content_type: str = "application/json"
    accept: str = "application/json"
    timeout_s: float | None = REQUEST_TIMEOUT_S
    limit_bytes: int = MAX_REPLY_BYTES

    def headers(self) -> dict[str, str]:
        """The headers that go with it."""
        headers = {"Accept": self.accept, **trace_headers()}
        if self.body is not None:
            headers["Content-Type"] = self.content_type
        if isinstance(self.body, Upload):
            headers["Content-Length"] = str(self.body.size_bytes)
        return headers


def _json(what: str, kind: type[T]) -> Callable[[bytes], T]:
    decoder = msgspec.json.Decoder(kind)

    def decode(body: bytes) -> T:
        try:
            return decoder.decode(body)
        except msgspec.MsgspecError as exc:
            raise failures.unreadable(what, exc) from exc

    return decode


def _nothing(_body: bytes) -> None:
    return None


def _same(body: bytes) -> bytes:
    return body


def _get(what: str, path: str, kind: type[T]) -> Call[T]:
    return Call(what, "GET", path, _json(what, kind))


def _segment(value: str, noun: str) -> str:
    if not value:
        raise UsageError(ErrorCode.REQUEST_INVALID, f"the {noun} is empty", hint=f"give a {noun}")
    return quote(value, safe="")


def health() -> Call[api.Health]:
    """Ask whether the daemon answers."""
    return _get("check health", "/v1/health", api.Health)


def status() -> Call[api.Status]:
    """Ask what runs there."""
    return _get("read the status", "/v1/status", api.Status)


def usage() -> Call[api.Usages]:
    """Ask what every session uses."""
    return _get("read the usage", "/v1/usage", api.Usages)


def create_template(wish: api.CreateTemplate) -> Call[api.Template]:
    """Begin to build a template; the reply comes while it is still building."""
    what = f"create template {wish.name!r}"
    body = msgspec.json.encode(wish)
    return Call(what, "POST", "/v1/templates", _json(what, api.Template), body)


def list_templates() -> Call[api.Templates]:
    """Ask for every template."""
    return _get("list templates", "/v1/templates", api.Templates)


def show_template(name: str) -> Call[api.Template]:
    """Ask for one template."""
    path = f"/v1/templates/{_segment(name, 'template name')}"
    return _get(f"read template {name!r}", path, api.Template)


def remove_template(name: str) -> Call[None]:
    """Remove a template that no session uses."""
    path = f"/v1/templates/{_segment(name, 'template name')}"
    return Call(f"remove template {name!r}", "DELETE", path, _nothing, timeout_s=START_TIMEOUT_S)


def verify_template(name: str) -> Call[api.Verification]:
    """Have every byte of a template on disk checked; takes seconds for each GiB."""
    what = f"verify template {name!r}"
    path = f"/v1/templates/{_segment(name, 'template name')}/verify"
    decode = _json(what, api.Verification)
    return Call(what, "POST", path, decode, timeout_s=TRANSFER_TIMEOUT_S)


def create_session(wish: api.CreateSession) -> Call[api.Session]:
    """Start a session; the exchange lasts as long as its deadline, and a little for the answer."""
    what = f"start a session of template {wish.template!r}"
    wait_s = (wish.deadline_s or START_TIMEOUT_S) + 5.0
    body = msgspec.json.encode(wish)
    return Call(what, "POST", "/v1/sessions", _json(what, api.Session), body, timeout_s=wait_s)


def list_sessions() -> Call[api.Sessions]:
    """Ask for every session."""
    return _get("list sessions", "/v1/sessions", api.Sessions)


def _session(session_id: str, rest: str = "") -> str:
    return f"/v1/sessions/{_segment(session_id, 'session id')}{rest}"


def show_session(session_id: str) -> Call[api.Session]:
    """Ask for one session."""
    return _get(f"read session {session_id!r}", _session(session_id), api.Session)


def end_session(session_id: str) -> Call[None]:
    """End a session and its VM."""
    return Call(f"end session {session_id!r}", "DELETE", _session(session_id), _nothing)


def interrupt(session_id: str) -> Call[None]:
    """Raise KeyboardInterrupt in what the session runs."""
    what = f"interrupt session {session_id!r}"
    return Call(what, "POST", _session(session_id, "/interrupt"), _nothing)


def restart(session_id: str) -> Call[None]:
    """Give the session a fresh interpreter; its variables are lost."""
    what = f"restart session {session_id!r}"
    return Call(what, "POST", _session(session_id, "/restart"), _nothing)


def execute(session_id: str, wish: api.Execute) -> Call[bytes]:
    """Run code; the reply is a stream of events, one JSON object a line."""
    wait_s = None if wish.timeout_s is None else wish.timeout_s + EXECUTE_GRACE_S
    return Call(
        f"run code in session {session_id!r}",
        "POST",
        _session(session_id, "/execute"),
        _same,
        msgspec.json.encode(wish),
        accept=NDJSON,
        timeout_s=wait_s,
    )


def _file(session_id: str, path: str) -> str:
    if not path:
        raise UsageError(ErrorCode.REQUEST_INVALID, "the file path is empty", hint="give a path")
    return _session(session_id, f"/files/{quote(path, safe='/')}")


def write_file(session_id: str, path: str, data: bytes | BinaryIO) -> Call[None]:
    """Put a file's bytes, replacing what was there."""
    return Call(
        f"write {path!r} in session {session_id!r}",
        "PUT",
        _file(session_id, path),
        _nothing,
        data if isinstance(data, bytes) else Upload(data),
        content_type="application/octet-stream",
        timeout_s=TRANSFER_TIMEOUT_S,
    )


def read_file(session_id: str, path: str) -> Call[bytes]:
    """Get a file's bytes."""
    return Call(
        f"read {path!r} in session {session_id!r}",
        "GET",
        _file(session_id, path),
        _same,
        accept="application/octet-stream",
        timeout_s=TRANSFER_TIMEOUT_S,
    )


def remove_file(session_id: str, path: str) -> Call[None]:
    """Remove a file or a tree."""
    what = f"remove {path!r} in session {session_id!r}"
    return Call(what, "DELETE", _file(session_id, path), _nothing)


def list_files(session_id: str, path: str) -> Call[api.Entries]:
    """List a directory of the session."""
    what = f"list {path!r} in session {session_id!r}"
    query = urlencode({"path": path})
    return _get(what, _session(session_id, f"/entries?{query}"), api.Entries)
