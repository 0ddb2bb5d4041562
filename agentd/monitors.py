"""Make the monitor of this node, and whoever looks after its page server, as the settings say."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypedDict

import structlog

from agentd.engine.trace import Tracer
from agentd.errors import ConfigError, ErrorCode
from agentd.log import LogTracer
from agentd.pager.client import PagerClient
from agentd.pager.places import KuasarPlace, PagerPlace, choose_journal_dir, own_binary
from agentd.pager.process import PagerProcess
from agentd.pager.watch import PagerWatch, is_wanted
from agentd.pager.working_sets import WorkingSets
from agentd.settings import Settings
from agentd.units import MIB, PAGE_BYTES
from agentd.vmm.absent import AbsentVmm
from agentd.vmm.paging import Paging
from agentd.vmm.vmm import Vmm

MakeVmm = Callable[[Settings, str], Vmm]


def make_vmm(settings: Settings, installation_id: str) -> Vmm:
    """The monitor of this machine; without its program none, if a sandboxer runs its Pods.

    Raises: ConfigError.
    """
    try:
        return _MAKERS[settings.monitor.kind](settings, installation_id)
    except ConfigError as exc:
        if not settings.kuasar.enabled or exc.code is not ErrorCode.MONITOR_MISSING:
            raise
        structlog.get_logger().info("daemon.without.monitor", reason=exc.message)
        return AbsentVmm(exc)


def make_qemu(settings: Settings, installation_id: str) -> Vmm:
    """The QEMU of this node. Raises: ConfigError."""
    from agentd.vmm.qemu_open import open_qemu

    return open_qemu(
        binary=settings.monitor.qemu_binary,
        accel=settings.monitor.accel,
        **_common(settings, installation_id),
    )


def make_firecracker(settings: Settings, installation_id: str) -> Vmm:
    """The Firecracker of this node. Raises: ConfigError."""
    from agentd.vmm.firecracker_open import open_firecracker

    return open_firecracker(
        binary=settings.monitor.firecracker_binary,
        paging=_make_paging(settings),
        **_common(settings, installation_id),
    )


def make_cloud_hypervisor(settings: Settings, installation_id: str) -> Vmm:
    """The Cloud Hypervisor of this node. Raises: ConfigError."""
    from agentd.vmm.cloud_hypervisor_open import open_cloud_hypervisor

    return open_cloud_hypervisor(
        binary=settings.monitor.cloud_hypervisor_binary,
        paging=_make_paging(settings),
        **_common(settings, installation_id),
    )


_MAKERS: Final[dict[str, MakeVmm]] = {
    "qemu": make_qemu,
    "firecracker": make_firecracker,
    "cloud-hypervisor": make_cloud_hypervisor,
}


class _Common(TypedDict):
    """What every monitor is told of its machines."""

    uid_base: int
    installation: str
    vms_dir: Path
    euid: int
    starts: int


def _common(settings: Settings, installation_id: str) -> _Common:
    return _Common(
        uid_base=settings.monitor.uid_base,
        installation=installation_id,
        vms_dir=settings.run_dir / "vms",
        euid=os.geteuid(),
        starts=settings.concurrent_forks,
    )


def _make_paging(settings: Settings) -> Paging | None:
    """The page server as a monitor sees it; None if it is off."""
    place, pager = make_pager_place(settings), settings.pager
    if pager.enabled == "off":
        return None
    pages = pager.working_set_mib * (MIB // PAGE_BYTES)
    sets = WorkingSets(place.binary, pages, pager.record_forks, LogTracer().step)
    return Paging(PagerClient(place.control_socket), sets, settings.data_dir / "templates")


def make_pager_watch(settings: Settings, engine: str, tracer: Tracer) -> PagerWatch | None:
    """Who looks at the page server, and starts one where machines need it; None if it is off.

    engine: of the monitor.
    """
    if settings.pager.enabled == "off":
        return None
    place, log_file = make_pager_place(settings), settings.run_dir / "pager.log"
    is_needed = is_wanted(engine, serves_kuasar=place.kuasar is not None)
    process = PagerProcess(place, log_file, tracer.step) if is_needed else None
    return PagerWatch(PagerClient(place.control_socket), tracer.step, log_file, process)


def make_pager_place(settings: Settings) -> PagerPlace:
    """Where the page server of this node is, or would be."""
    pager, control = settings.pager, settings.pager_socket
    mountinfo = Path("/proc/self/mountinfo").read_text()
    return PagerPlace(
        pager.binary or own_binary(),
        control,
        pager.journal_dir or choose_journal_dir(control, settings.run_dir, mountinfo),
        pager.hand_over_s,
        pager.readers,
        _kuasar_place(settings),
    )


def _kuasar_place(settings: Settings) -> KuasarPlace | None:
    pager = settings.pager
    if pager.kuasar_socket is None or pager.kuasar_dir is None:
        return None
    sets = settings.data_dir / "kuasar-sets"
    return KuasarPlace(
        pager.kuasar_socket, pager.kuasar_dir, sets, pager.record_forks, pager.working_set_mib
    )
