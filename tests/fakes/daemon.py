"""A whole daemon on fake machines, in this process."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from agentd import native
from agentd.daemon import Parts, serve
from agentd.engine.trace import Tracer
from agentd.image.manifest import FORMAT_VERSION, FileRecord, ImageManifest
from agentd.settings import Settings, load_settings

from .vmm import FakeVmm


def make_settings(root: Path, **changes: Any) -> Settings:
    """Settings below a directory. changes: groups, as in the file."""
    raw = {
        "paths": {
            "data_dir": root / "data",
            "run_dir": root / "run",
            "image_cache_dir": root / "i",
        },
        "log": {"level": "debug"},
        **changes,
    }
    (root / "agentd.toml").write_text(
        "\n".join(
            line
            for group, fields in raw.items()
            for line in (f"[{group}]", *(f"{k} = {_toml(v)}" for k, v in fields.items()))
        )
    )
    return load_settings(root / "agentd.toml", {})


def make_image(directory: Path, key: str = "0" * 64) -> Path:
    """A guest image that only a fake machine can boot."""
    directory.mkdir()
    files = []
    for name in ("kernel", "initrd"):
        (directory / name).write_bytes(name.encode())
        digest = hashlib.sha256(name.encode()).hexdigest()
        files.append(FileRecord(name, digest, len(name)))
    manifest = ImageManifest(
        FORMAT_VERSION, key, "2026-01-01T00:00:00Z", files[0], files[1], "6.1", (), ("numpy",),
        "3.11.2", ("quiet",), (), (),
    )  # fmt: skip
    (directory / "image.json").write_bytes(msgspec.json.encode(manifest))
    return directory


async def until(check: Callable[[], Awaitable[bool]]) -> None:
    """Ask until the answer is yes; the test's own timeout is the limit."""
    while not await check():  # noqa: ASYNC110 - another process cannot set an event of ours
        await asyncio.sleep(0.01)


@dataclass
class RunningDaemon:
    """A daemon that serves. api: a client of it."""

    api: aiohttp.ClientSession
    vmm: FakeVmm
    settings: Settings
    image: Path
    stop: asyncio.Event
    reload: asyncio.Event

    async def call(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, Any]:
        """One request: status, decoded body."""
        async with self.api.request(method, f"http://agentd{path}", json=body, **more) as answer:
            data = await answer.read()
            return answer.status, (msgspec.json.decode(data) if data else None)

    async def template(self, name: str = "py", memory_mib: int = 1) -> dict[str, Any]:
        """Build a template, wait until it is settled."""
        body = {"name": name, "image": str(self.image), "memory_mib": memory_mib}
        status, _ = await self.call("POST", "/v1/templates", body)
        assert status == 202
        while True:
            _, template = await self.call("GET", f"/v1/templates/{name}")
            if template["state"] != "building":
                return template
            await asyncio.sleep(0.01)

    async def build_until(self, stage: str) -> None:
        """Begin to build a template, wait until it is in a stage."""
        body = {"name": "py", "image": str(self.image), "memory_mib": 1}
        await self.call("POST", "/v1/templates", body)

        async def is_there() -> bool:
            return bool((await self.call("GET", "/v1/templates/py"))[1]["stage"] == stage)

        await until(is_there)

    async def session(self, **body: Any) -> dict[str, Any]:
        """Start a session."""
        status, session = await self.call("POST", "/v1/sessions", {"template": "py", **body})
        assert status == 201, session
        return session

    async def run(self, session: dict[str, Any], code: str) -> dict[str, Any]:
        """Run code."""
        path = f"/v1/sessions/{session['id']}/execute"
        status, outcome = await self.call("POST", path, {"code": code})
        assert status == 200, outcome
        return outcome

    async def ended(self, session: dict[str, Any]) -> dict[str, Any]:
        """Wait until a session has ended."""
        while True:
            _, found = await self.call("GET", f"/v1/sessions/{session['id']}")
            if found["state"] == "ended":
                return found
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running_daemon(
    root: Path,
    watchers: Iterable[Tracer] = (),
    environ: Mapping[str, str] | None = None,
    open_vmm: Callable[[Settings, str], Any] | None = None,
    **changes: Any,
) -> AsyncIterator[RunningDaemon]:
    """Serve below a directory until the block ends; a second one finds what the first left.

    open_vmm: makes the monitor; None for one whose machines are fakes.
    """
    settings = make_settings(root, **changes)
    image = root / "image"
    if not image.exists():
        make_image(image)
    vmms: list[Any] = []

    def make_vmm(made: Settings, installation: str) -> Any:
        make = open_vmm or _open_fake
        vmms.append(make(made, installation))
        return vmms[0]

    ready = asyncio.Event()
    parts = Parts(
        settings,
        environ or {},
        make_vmm,
        native.copy_memory,
        (_Ready(ready), *watchers),
        stop_on=(),
        load=lambda: load_settings(root / "agentd.toml", {}),
    )
    task = asyncio.create_task(serve(parts))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if task.done():
        task.result()
    try:
        connector = aiohttp.UnixConnector(str(settings.socket))
        async with aiohttp.ClientSession(connector=connector) as api:
            yield RunningDaemon(api, vmms[0], settings, image, parts.stop, parts.reload)
    finally:
        parts.stop.set()
        await task


def _open_fake(settings: Settings, installation: str) -> FakeVmm:
    return FakeVmm(installation, settings.run_dir / "vms")


class _Ready:
    def __init__(self, ready: asyncio.Event) -> None:
        self._ready = ready

    def step(self, event: str, /, **_details: str | int | float) -> None:
        if event == "daemon.ready":
            self._ready.set()


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, int | float) else f'"{value}"'
