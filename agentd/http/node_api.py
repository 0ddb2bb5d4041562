"""Serve the paths for templates and for the node itself."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Final

from aiohttp import web

from agentd import __version__
from agentd.engine.engine import Engine
from agentd.engine.template import Template
from agentd.engine.usage import measure_all, own_rss_bytes
from agentd.errors import ErrorCode, SnapStartError, UsageError
from agentd.http.codec import read_body, reply
from agentd.http.routes import Route
from agentd.http.views import view_template, view_verification
from agentd.pager.client import PagerClient
from agentd.settings import LiveSettings
from agentd.wire import api
from agentd.wire.manifest import VmmFacts
from agentd.wire.pager import Stats

_PAGER_S: Final = 1.0


class NodeApi:
    """Handlers for templates, status, usage.

    facts: of the monitor, for the status. pager: whom to ask what it did; None for nobody.
    """

    def __init__(
        self,
        engine: Engine,
        settings: LiveSettings,
        facts: VmmFacts,
        pager: PagerClient | None,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._facts = facts
        self._pager = pager
        self._started_s = time.monotonic()

    def routes(self) -> list[Route]:
        """What is served here."""
        one = "/v1/templates/{name}"
        return [
            Route("GET", "/v1/health", "Is it there", self.health, None, api.Health),
            Route("GET", "/v1/status", "What runs here", self.status, None, api.Status),
            Route("GET", "/v1/usage", "What each session uses", self.usage, None, api.Usages),
            Route("POST", "/v1/templates", "Build a template", self.create,
                  api.CreateTemplate, api.Template, 202),
            Route("GET", "/v1/templates", "Every template", self.list, None, api.Templates),
            Route("GET", one, "One template", self.show, None, api.Template),
            Route("DELETE", one, "Remove a template", self.delete, status=204),
            Route("POST", f"{one}/verify", "Check every byte of a template on disk", self.verify,
                  None, api.Verification),
        ]  # fmt: skip

    # -- templates --------------------------------------------------------------------------

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Begin to build; the reply does not wait."""
        wish = await read_body(request, api.CreateTemplate)
        return reply(202, self._view(self._engine.templates.begin(wish)))

    async def list(self, request: web.Request) -> web.StreamResponse:
        """Every template."""
        templates = [self._view(template) for template in self._engine.templates.list()]
        return reply(200, api.Templates(templates=templates))

    async def show(self, request: web.Request) -> web.StreamResponse:
        """One template."""
        return reply(200, self._view(self._engine.templates.get(request.match_info["name"])))

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """Remove a template that no session uses."""
        name = request.match_info["name"]
        template = self._engine.templates.get(name)
        in_use = self._engine.sessions.count(template.name)
        if in_use:
            raise UsageError(
                ErrorCode.TEMPLATE_IN_USE,
                f"removing template {name!r}: {in_use} of its sessions run",
                hint="end them first",
            )
        await self._engine.templates.remove(name)
        await self._engine.parking.drop(name)
        return web.Response(status=204)

    async def verify(self, request: web.Request) -> web.StreamResponse:
        """Read a template from disk; takes seconds for each GiB."""
        begun_s = time.monotonic()
        checked = await self._engine.templates.verify(request.match_info["name"])
        duration_s = round(time.monotonic() - begun_s, 3)
        return reply(200, view_verification(checked, duration_s))

    def _view(self, template: Template) -> api.Template:
        return view_template(template, self._engine.sessions.count(template.name))

    # -- the node ---------------------------------------------------------------------------

    async def health(self, request: web.Request) -> web.StreamResponse:
        """The daemon answers."""
        return reply(200, api.Health(status="ok", version=__version__))

    async def status(self, request: web.Request) -> web.StreamResponse:
        """What runs here."""
        limits = self._engine.machines.limits
        return reply(
            200,
            api.Status(
                version=__version__,
                pid=os.getpid(),
                uptime_s=round(time.monotonic() - self._started_s, 3),
                engine=self._facts.engine,
                accel=self._facts.accel,
                engine_version=self._facts.version,
                rss_bytes=own_rss_bytes(),
                sessions=len(self._engine.sessions.list()),
                templates=len(self._engine.templates.list()),
                limits={
                    "memory_bytes": limits.memory_bytes,
                    "reserved_bytes": self._engine.machines.reserved_bytes,
                    "template_bytes": self._engine.templates.loaded_bytes,
                    "max_sessions": limits.max_sessions,
                    "parked": self._engine.parking.count,
                    "max_file_bytes": self._settings.api.max_file_bytes,
                },
            ),
        )

    async def usage(self, request: web.Request) -> web.StreamResponse:
        """What each session's machine uses."""
        running = [(s.id, s.machine) for s in self._engine.sessions.list()]
        pids = {sid: machine.vm.record.pid for sid, machine in running if machine is not None}
        measured = await asyncio.to_thread(measure_all, list(pids.values()))
        usage = [
            api.Usage(
                session=session_id,
                rss_bytes=used.rss_bytes,
                pss_bytes=used.pss_bytes,
                private_bytes=used.private_bytes,
                cpu_s=used.cpu_s,
            )
            for session_id, used in zip(pids, measured, strict=True)
            if used is not None
        ]
        paging = await self._paging()
        return reply(200, api.Usages(usage=usage, agentd_rss_bytes=own_rss_bytes(), pager=paging))

    async def _paging(self) -> Stats | None:
        """Nobody waits long for it: whether it is there, metrics and the log tell."""
        if self._pager is None or not self._pager.has_socket():
            return None
        try:
            return await self._pager.stats(deadline_s=_PAGER_S)
        except SnapStartError:
            return None
