"""A daemon on a Unix socket, speaking docs/local-api.md by its own means.

It runs in a thread of its own, so that blocking clients can be tested. `refusals` makes a path
answer with an error, `scripts` says which events a piece of code gives; a script may hang up in
the middle, wait, or send raw bytes.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from aiohttp import web

CREATED = "2026-01-02T03:04:05+00:00"
STAGES = {
    "spawn": 20.0, "load": 60.0, "resume": 70.0, "inject": 120.0, "guest_ready": 150.0,
    "total": 151.0,
}  # fmt: skip
PNG = base64.b64encode(b"\x89PNG fake").decode()
REFUSED_STATUS = {
    "template_not_found": 404, "session_not_found": 404, "file_not_found": 404,
    "request_invalid": 400,
}  # fmt: skip


class HangUp:
    """Script step: close the connection without ending the reply."""


@dataclass(frozen=True)
class Wait:
    """Script step: let this many seconds pass, or until the client is gone."""

    seconds: float


def end(status: str = "ok", **more: Any) -> dict[str, Any]:
    """The last event of an execution."""
    return {
        "type": "end", "status": status, "detail": None, "execution_count": 1, "duration_s": 0.01,
        "stdout_truncated": False, "stderr_truncated": False, **more,
    }  # fmt: skip


def text(value: str) -> dict[str, Any]:
    """The value of a last expression."""
    return {"type": "result", "data": {"text/plain": value}, "main": True}


@dataclass
class Refusal:
    """What a path answers instead; a string body is sent as it is."""

    code: str
    status: int = 400
    hint: str = "try something else"
    raw: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def reply(self) -> web.Response:
        if self.raw is not None:
            return web.Response(status=self.status, text=self.raw, headers=self.headers)
        body = {"code": self.code, "message": f"refused: {self.code}", "hint": self.hint}
        return web.json_response({"error": body}, status=self.status, headers=self.headers)


class FakeLocalApi:
    """The daemon. Use in `with`; the socket is gone afterwards."""

    def __init__(self, socket_path: Path) -> None:
        self.socket_path = socket_path
        self.sessions: dict[str, dict[str, Any]] = {}
        self.templates: dict[str, dict[str, Any]] = {}
        self.files: dict[tuple[str, str], bytes] = {}
        self.refusals: dict[tuple[str, str], Refusal] = {}
        self.scripts: dict[str, list[Any]] = {}
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.connections: set[int] = set()
        self.build_polls = 2
        self.build_error: dict[str, str] | None = None
        self.paged: list[dict[str, Any]] | None = None
        self._numbers = itertools.count(1)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="fake-local-api")
        self._is_up = threading.Event()
        self._stop = asyncio.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._is_up.wait(10)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        assert not self._thread.is_alive()

    def add_template(self, name: str = "python", **more: Any) -> dict[str, Any]:
        """Put a ready template there."""
        made = {
            "name": name, "state": "ready", "stage": "", "progress": 1.0, "image": "/img",
            "memory_mib": 256, "vcpus": 1, "created_at": CREATED, "size_bytes": 50 << 20,
            "sessions": 0, "stages_ms": {"boot": 4000.0}, "error": None, "future": 1, **more,
        }  # fmt: skip
        self.templates[name] = made
        return made

    def add_session(self, session_id: str = "s1", **more: Any) -> dict[str, Any]:
        """Put a running session there."""
        made = {
            "id": session_id, "template": "python", "mode": "fork", "state": "ready", "pid": 4242,
            "created_at": CREATED, "expires_at": "", "last_used_at": CREATED, "ended_reason": "",
            "hostname": f"host-{session_id}", "stages_ms": STAGES, "metadata": {}, **more,
        }  # fmt: skip
        self.sessions[session_id] = made
        return made

    # -- the thread -------------------------------------------------------------------------

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._run())
        finally:
            self._loop.close()

    async def _run(self) -> None:
        app = web.Application(middlewares=[self._watch], client_max_size=1 << 30)
        one = "/v1/sessions/{id}"
        app.add_routes(
            [
                web.get("/v1/health", self._health),
                web.get("/v1/status", self._status),
                web.get("/v1/usage", self._usage),
                web.post("/v1/templates", self._create_template),
                web.get("/v1/templates", self._list_templates),
                web.get("/v1/templates/{name}", self._show_template),
                web.delete("/v1/templates/{name}", self._delete_template),
                web.post("/v1/templates/{name}/verify", self._verify_template),
                web.post("/v1/sessions", self._create_session),
                web.get("/v1/sessions", self._list_sessions),
                web.get(one, self._show_session),
                web.delete(one, self._delete_session),
                web.post(one + "/execute", self._execute),
                web.post(one + "/{op:interrupt|restart}", self._signal),
                web.get(one + "/entries", self._entries),
                web.put(one + "/files/{path:.+}", self._put),
                web.get(one + "/files/{path:.+}", self._get),
                web.delete(one + "/files/{path:.+}", self._remove),
            ]
        )
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.UnixSite(runner, str(self.socket_path)).start()
        self._is_up.set()
        try:
            await self._stop.wait()
        finally:
            await runner.cleanup()
            self.socket_path.unlink(missing_ok=True)

    @web.middleware
    async def _watch(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        self.connections.add(id(request.transport))
        refusal = self.refusals.get((request.method, request.path))
        if refusal is not None:
            await request.read()
            return refusal.reply()
        try:
            answer: web.StreamResponse = await handler(request)
        except KeyError as exc:
            code = str(exc.args[0])
            return Refusal(code, REFUSED_STATUS[code], hint="list them").reply()
        return answer

    def _session(self, request: web.Request) -> dict[str, Any]:
        session = self.sessions.get(request.match_info["id"])
        if session is None:
            raise KeyError("session_not_found")
        return session

    # -- handlers ---------------------------------------------------------------------------

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "version": "9.9"})

    async def _status(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {
                "version": "9.9", "pid": 77, "uptime_s": 3700.0, "engine": "qemu", "accel": "tcg",
                "engine_version": "7.2.22", "rss_bytes": 60 << 20, "sessions": len(self.sessions),
                "templates": len(self.templates), "limits": {"sessions": 64},
            }
        )  # fmt: skip

    async def _usage(self, _request: web.Request) -> web.Response:
        usage = [
            {"session": name, "rss_bytes": 90 << 20, "pss_bytes": 30 << 20,
             "private_bytes": 20 << 20, "cpu_s": 1.5}
            for name in self.sessions
        ]  # fmt: skip
        pager = {"pid": 78, "uptime_s": 60.5, "machines": self.paged, "stopped": []}
        return web.json_response(
            {
                "usage": usage, "agentd_rss_bytes": 60 << 20,
                "pager": None if self.paged is None else pager,
            }
        )  # fmt: skip

    async def _create_template(self, request: web.Request) -> web.Response:
        wish = await request.json()
        self.bodies.append(wish)
        made = self.add_template(wish["name"], state="building", stage="booting", progress=0.1)
        return web.json_response(made, status=202)

    async def _list_templates(self, _request: web.Request) -> web.Response:
        return web.json_response({"templates": list(self.templates.values())})

    async def _show_template(self, request: web.Request) -> web.Response:
        found = self.templates.get(request.match_info["name"])
        if found is None:
            raise KeyError("template_not_found")
        if found["state"] == "building":
            self.build_polls -= 1
            found.update(stage="warming", progress=0.6)
            if self.build_polls <= 0:
                state = "failed" if self.build_error else "ready"
                found.update(state=state, error=self.build_error)
        return web.json_response(found)

    async def _delete_template(self, request: web.Request) -> web.Response:
        if self.templates.pop(request.match_info["name"], None) is None:
            raise KeyError("template_not_found")
        return web.Response(status=204)

    async def _verify_template(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.templates:
            raise KeyError("template_not_found")
        return web.json_response(
            {
                "name": name, "template_id": "t1", "sha256": "ab" * 32, "has_record": True,
                "memory_bytes": 256 << 20, "data_bytes": 50 << 20, "device_state_bytes": 1 << 20,
                "duration_s": 0.4,
            }
        )  # fmt: skip

    async def _create_session(self, request: web.Request) -> web.Response:
        wish = await request.json()
        self.bodies.append(wish)
        if wish["template"] not in self.templates:
            raise KeyError("template_not_found")
        made = self.add_session(
            f"fork{next(self._numbers)}", template=wish["template"], mode=wish.get("mode", "fork")
        )
        for path, content in wish.get("files", {}).items():
            self.files[made["id"], path] = base64.b64decode(content)
        return web.json_response(made, status=201)

    async def _list_sessions(self, _request: web.Request) -> web.Response:
        return web.json_response({"sessions": list(self.sessions.values())})

    async def _show_session(self, request: web.Request) -> web.Response:
        return web.json_response(self._session(request))

    async def _delete_session(self, request: web.Request) -> web.Response:
        self._session(request)
        del self.sessions[request.match_info["id"]]
        return web.Response(status=204)

    async def _signal(self, request: web.Request) -> web.Response:
        self._session(request)
        return web.Response(status=204)

    async def _execute(self, request: web.Request) -> web.StreamResponse:
        self._session(request)
        wish = await request.json()
        self.bodies.append(wish)
        assert request.headers["Accept"] == "application/x-ndjson"
        steps = self.scripts.get(wish["code"], [text(wish["code"]), end()])
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        for step in steps:
            if isinstance(step, HangUp):
                assert request.transport is not None
                request.transport.close()
                return response
            if isinstance(step, Wait):
                await asyncio.sleep(step.seconds)
            else:
                raw = step if isinstance(step, bytes) else json.dumps(step).encode() + b"\n"
                await response.write(raw)
        await response.write_eof()
        return response

    async def _entries(self, request: web.Request) -> web.Response:
        session = self._session(request)["id"]
        folder = request.query["path"]
        prefix = "" if folder == "." else folder.rstrip("/") + "/"
        inside = [p for s, p in self.files if s == session and p.startswith(prefix)]
        if prefix and not inside:
            raise KeyError("file_not_found")
        entries = [
            {"path": path, "kind": "file", "size": len(self.files[session, path]), "mtime_s": 0.0}
            for path in inside
        ]
        return web.json_response({"entries": entries})

    async def _put(self, request: web.Request) -> web.Response:
        session = self._session(request)["id"]
        if request.content_length is None:
            raise web.HTTPLengthRequired
        self.files[session, request.match_info["path"]] = await request.read()
        return web.Response(status=204)

    async def _get(self, request: web.Request) -> web.Response:
        content = self.files.get((self._session(request)["id"], request.match_info["path"]))
        if content is None:
            raise KeyError("file_not_found")
        return web.Response(body=content, content_type="application/octet-stream")

    async def _remove(self, request: web.Request) -> web.Response:
        key = (self._session(request)["id"], request.match_info["path"])
        if self.files.pop(key, None) is None:
            raise KeyError("file_not_found")
        return web.Response(status=204)
