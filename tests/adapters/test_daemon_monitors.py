"""A daemon on the drivers that `monitor.kind` names: programs that speak as the real ones do.

They are stand-ins, so there is no KVM in their machines, and the guests are fake. All else is the
product's: settings, drivers, engine, store, API, and with root the page server.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentd.monitors import make_vmm
from agentd.pager.client import PagerClient
from agentd.vmm.host import DeviceAccess, HostFacts
from tests.adapters.vmm.page_server import PageServer, why_not
from tests.fakes import cloud_hypervisor, firecracker
from tests.fakes.daemon import RunningDaemon, running_daemon

HOST = HostFacts("some CPU", 0, has_virtualization=True, kvm=DeviceAccess(0o666, 0))
MEMORY_MIB = 4
KINDS = ("firecracker", "cloud-hypervisor")
STAND_INS: dict[str, Any] = {"firecracker": firecracker, "cloud-hypervisor": cloud_hypervisor}


@dataclass(frozen=True)
class Site:
    """Where daemons of one monitor run. serve: begins one; another finds what it left."""

    root: Path
    serve: Callable[..., AbstractAsyncContextManager[RunningDaemon]]


@pytest.fixture
def root() -> Iterator[Path]:
    """Short enough for socket paths."""
    path = Path(tempfile.mkdtemp(prefix="dm-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=KINDS)
def site(root: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Site:
    kind: str = request.param
    module = kind.replace("-", "_")
    (root / "program").mkdir()
    fakes = STAND_INS[kind]
    stand_in = fakes.StandIn(fakes.build_launcher(root / "program"), root / "bin")
    monkeypatch.setattr(f"agentd.vmm.{module}_open.read_host_facts", lambda: HOST)
    monkeypatch.setattr(f"agentd.vmm.{module}.KVM_DEVICE", "/dev/null")
    # Their users could not reach the stand-in, which lies where only we may read.
    monitor = {"kind": kind, f"{module}_binary": str(stand_in.binary), "uid_base": 0}

    @asynccontextmanager
    async def serve(**changes: Any) -> AsyncIterator[RunningDaemon]:
        pager = changes.pop("pager", {"enabled": "off"})
        async with running_daemon(
            root, open_vmm=make_vmm, monitor=monitor, pager=pager, **changes
        ) as daemon:
            yield daemon

    return Site(root, serve)


async def end_all(daemon: RunningDaemon) -> None:
    """End every session, so that no machine outlives the test."""
    _, found = await daemon.call("GET", "/v1/sessions")
    for session in found["sessions"]:
        assert (await daemon.call("DELETE", f"/v1/sessions/{session['id']}"))[0] == 204


def left(site: Site, daemon: RunningDaemon) -> list[Any]:
    """What there is still of machines."""
    return [*daemon.vmm.find_all(), *(site.root / "run/vms").iterdir()]


async def said(daemon: RunningDaemon, session: dict[str, Any], code: str) -> str:
    return str((await daemon.run(session, code))["stdout"])


async def test_a_template_is_built_forked_and_spoken_to(site: Site) -> None:
    async with site.serve() as daemon:
        template = await daemon.template(memory_mib=MEMORY_MIB)
        assert (template["state"], template["error"]) == ("ready", None)
        one, other = await daemon.session(env={"WHO": "one"}), await daemon.session()
        assert await said(daemon, one, "x = 1\nprint(guest.identity['session_id'])") == (
            f"{one['id']}\n"
        )
        assert await said(daemon, other, "print('x' in globals())") == "False\n"
        assert len(daemon.vmm.find_all()) == 2
        await end_all(daemon)
        assert left(site, daemon) == []


async def test_a_session_may_boot_cold(site: Site) -> None:
    async with site.serve() as daemon:
        await daemon.template(memory_mib=MEMORY_MIB)
        session = await daemon.session(mode="cold")
        assert session["mode"] == "cold"
        assert await said(daemon, session, "print(guest.gate)") == "open\n"
        await end_all(daemon)
        assert left(site, daemon) == []


async def test_sessions_and_templates_outlive_their_daemon(site: Site) -> None:
    async with site.serve() as daemon:
        await daemon.template(memory_mib=MEMORY_MIB)
        before = await daemon.session()
        await daemon.run(before, "x = 42")
    os.kill(before["pid"], 0)
    async with site.serve() as daemon:
        _, after = await daemon.call("GET", f"/v1/sessions/{before['id']}")
        assert (after["state"], after["pid"]) == ("ready", before["pid"])
        assert await said(daemon, after, "print(x)") == "42\n"
        assert (await daemon.session())["state"] == "ready", "from what is on the disk"
        await end_all(daemon)
        os.waitpid(before["pid"], 0)  # noqa: ASYNC222 - ours, and killed
        assert left(site, daemon) == []


async def test_a_machine_that_dies_ends_its_session(site: Site) -> None:
    async with site.serve() as daemon:
        await daemon.template(memory_mib=MEMORY_MIB)
        session = await daemon.session()
        os.kill(session["pid"], 9)
        ended = await daemon.ended(session)
        assert ended["state"] == "ended"
        assert left(site, daemon) == []


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "it can")
async def test_a_page_server_that_answers_serves_firecracker_and_is_not_asked_by_who_can_map(
    site: Site, request: pytest.FixtureRequest
) -> None:
    """Both with `pager.enabled` as it is by default."""
    async with PageServer(site.root, "supervise") as server:
        client = PagerClient(server.control)
        async with site.serve(pager={"control_socket": str(server.control)}) as daemon:
            await daemon.template(memory_mib=MEMORY_MIB)
            session = await daemon.session()
            assert await said(daemon, session, "print(guest.gate)") == "open\n"
            served = [one.vm for one in (await client.stats()).machines]
            is_asked = "firecracker" in request.node.callspec.id
            assert served == ([session["id"]] if is_asked else [])
            await end_all(daemon)
            assert left(site, daemon) == []
