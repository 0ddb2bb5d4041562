"""Serve HTTP in a process of its own, with the rights of the user that the code runs as."""

from __future__ import annotations

import gc
import os
import select
import shutil
import signal
import socket
import threading
import traceback
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import Any, NoReturn
from urllib.parse import parse_qs, unquote, urlsplit

from agentd.guest import http_commands, http_files, interpreter
from agentd.guest.http_auth import Authenticator, AuthError
from agentd.guest.http_files import HttpError
from agentd.guest.link import BlockingLink
from agentd.guest.settings import Settings
from agentd.guest.wire import JsonObject, WireError, decode_json, encode_json

HEADER_TIMEOUT_S = 10.0
BODY_MAX_BYTES = 32 * 1024 * 1024
RETRY_AFTER_S = 1
CONNECTIONS_MAX = 64


class Context:
    """What the connections share: the way to the supervisor, the tasks that run."""

    def __init__(self, settings: Settings, link: BlockingLink) -> None:
        self.settings = settings
        self._authenticator = Authenticator("")
        self._link = link
        self._lock = threading.Lock()
        self._tasks = 0

    def ask(self, kind: str, **members: int) -> JsonObject:
        """One question to the supervisor; its answer. Raises HttpError 503 when it is gone."""
        with self._lock:
            self._link.send({"type": kind, **members})
            answer = self._link.receive()
        if answer is None:
            raise HttpError(503, "the runtime is shutting down")
        return answer

    def authenticator(self, key: str) -> Authenticator:
        """What checks the tokens of that key; a session may bring another than the image's."""
        found = self._authenticator
        if found.key != key:
            found = self._authenticator = Authenticator(key)
        return found

    def count_task(self, change: int) -> None:
        """Tell the supervisor how many commands run."""
        with self._lock:
            self._tasks += change
            self._link.send({"type": "tasks", "count": self._tasks})


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version = "snapstart"
    sys_version = ""
    timeout = HEADER_TIMEOUT_S
    server: Any

    def log_message(self, format: str, *args: object) -> None:
        """Requests are the host's to log."""

    def do_GET(self) -> None:
        """Routes of GET."""
        self._guard(self._get)

    def do_POST(self) -> None:
        """Routes of POST."""
        self._guard(self._post)

    def _guard(self, serve: Any) -> None:
        try:
            serve(urlsplit(self.path).path)
        except (HttpError, AuthError) as exc:
            self._fail(exc.status, exc.message)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            self.close_connection = True
        except Exception as exc:
            traceback.print_exc()
            self._fail(500, f"{type(exc).__name__}: {exc}")

    def _fail(self, status: int, message: str) -> None:
        # An unread body would be taken for the next request.
        self.close_connection = True
        headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else {}
        self._reply(status, {"error": message, "code": status}, headers)

    def _reply(self, status: int, body: JsonObject, headers: dict[str, str] | None = None) -> None:
        data = encode_json(body)
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def _admit(self) -> JsonObject:
        """The session, for a request below /api: gate first, then authentication. Gate and key
        come in one answer, so that no request finds the one open and the other missing."""
        session: JsonObject = self.server.ask("session")
        if session["gate"] != "open":
            raise HttpError(503, "no session has been injected yet")
        self.server.authenticator(session["auth_key"]).check(self.headers.get("Authorization"))
        return session

    def _get(self, path: str) -> None:
        if path == "/health":
            self._reply(200, {"status": "ok", "gate": self.server.ask("session")["gate"]})
        elif path == "/runtime/status":
            self._reply(
                200, self.server.ask("status", inode=os.fstat(self.connection.fileno()).st_ino)
            )
        elif path == "/api/files":
            session = self._admit()
            wanted = parse_qs(urlsplit(self.path).query).get("path", [""])[0]
            self._reply(200, http_files.list_files(session["workspace"], wanted))
        elif path.startswith("/api/files/"):
            session = self._admit()
            self._download(session["workspace"], unquote(path.removeprefix("/api/files/")))
        else:
            raise self._unknown(path)

    def _post(self, path: str) -> None:
        if path == "/api/execute":
            self._execute(self._admit())
        elif path == "/api/files":
            session = self._admit()
            kind = self.headers.get("Content-Type", "")
            self._reply(200, http_files.upload(session["workspace"], kind, self._body()))
        else:
            raise self._unknown(path)

    def _unknown(self, path: str) -> HttpError:
        if path.startswith("/api/"):
            self._admit()
        return HttpError(404, f"there is no {path[:200]!r}")

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit():
            raise HttpError(411, "a Content-Length is needed")
        if int(length) > BODY_MAX_BYTES:
            raise HttpError(413, f"the body is over {BODY_MAX_BYTES} bytes")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise HttpError(400, "the body ended early")
        return body

    def _execute(self, session: JsonObject) -> None:
        try:
            command = http_commands.parse_command(decode_json(self._body()))
        except WireError as exc:
            raise HttpError(400, str(exc)) from exc
        environment = {**self.server.settings.environment, **session["environment"]}
        self.server.count_task(1)
        try:
            answer = http_commands.run_command(command, session["workspace"], environment)
        finally:
            self.server.count_task(-1)
        self._reply(200, answer)

    def _download(self, workspace: str, path: str) -> None:
        file, size, kind = http_files.open_file(workspace, path)
        with file:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(size))
            name = os.path.basename(path).replace('"', "").replace("\r", "").replace("\n", "")
            safe = name.encode("ascii", "replace").decode("ascii")
            self.send_header("Content-Disposition", f'attachment; filename="{safe}"')
            self.end_headers()
            shutil.copyfileobj(file, self.wfile)


def run(
    settings: Settings,
    control: socket.socket,
    passed: socket.socket,
    listener: socket.socket | None,
) -> NoReturn:
    """The life of the HTTP process, right after the supervisor forked it."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        gc.enable()
        control, passed, listener = _keep_only(control, passed, listener)
        interpreter.become_unprivileged(settings, settings.http_cgroup)
        os.chdir(settings.workspace)
        _serve(Context(settings, BlockingLink(control)), passed, listener)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _keep_only(
    control: socket.socket, passed: socket.socket, listener: socket.socket | None
) -> tuple[socket.socket, socket.socket, socket.socket | None]:
    kept = [control.detach(), passed.detach()]
    if listener is not None:
        kept.append(os.dup(listener.fileno()))
    previous = 3
    for fd in sorted(kept):
        os.closerange(previous, fd)
        previous = fd + 1
    os.closerange(previous, 4096)
    sockets = [socket.socket(fileno=fd) for fd in kept]
    return sockets[0], sockets[1], sockets[2] if len(sockets) > 2 else None


def _serve(context: Context, passed: socket.socket, listener: socket.socket | None) -> None:
    slots = threading.BoundedSemaphore(CONNECTIONS_MAX)
    poll = select.poll()
    poll.register(passed, select.POLLIN)
    if listener is not None:
        listener.setblocking(False)
        poll.register(listener, select.POLLIN)
    while True:
        for fd, _events in poll.poll():
            if fd == passed.fileno():
                data, fds, _flags, _address = socket.recv_fds(passed, 1, 1)
                if not data:
                    return
                connections = [socket.socket(fileno=number) for number in fds]
            else:
                assert listener is not None
                connections = _accept(listener)
            for connection in connections:
                _start(context, connection, slots)


def _accept(listener: socket.socket) -> list[socket.socket]:
    with suppress(BlockingIOError, ConnectionAbortedError):
        return [listener.accept()[0]]
    return []


def _start(context: Context, connection: socket.socket, slots: threading.BoundedSemaphore) -> None:
    slots.acquire()
    connection.setblocking(True)

    def serve() -> None:
        try:
            with connection, suppress(OSError):
                Handler(connection, ("", 0), context)  # type: ignore[arg-type]
        finally:
            slots.release()

    threading.Thread(target=serve, name="http", daemon=True).start()
