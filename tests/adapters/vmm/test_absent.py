"""A machine without a monitor, whose Pods a sandboxer runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentd.errors import ConfigError, ErrorCode, SnapStartError
from agentd.monitors import make_vmm
from agentd.settings import Settings
from agentd.vmm.absent import AbsentVmm
from agentd.vmm.vmm import BootSpec, VmRecord
from agentd.wire.manifest import Machine
from tests.fakes.daemon import make_settings

SHAPE = Machine(memory_mib=256, vcpus=1)


def settings(tmp_path: Path, *, has_sandboxer: bool) -> Settings:
    monitor = {"qemu_binary": "no-such-qemu"}
    return make_settings(tmp_path, monitor=monitor, kuasar={"enabled": has_sandboxer})


def test_a_node_with_a_sandboxer_needs_no_monitor(tmp_path: Path) -> None:
    vmm = make_vmm(settings(tmp_path, has_sandboxer=True), "i")
    assert isinstance(vmm, AbsentVmm)
    assert vmm.find_all() == []
    assert vmm.facts(SHAPE).engine == "none"
    assert vmm.adopt(VmRecord("a", tmp_path, 1, 1)) is None
    vmm.forget("a")
    vmm.close()


def test_any_other_machine_does(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no-such-qemu") as caught:
        make_vmm(settings(tmp_path, has_sandboxer=False), "i")
    assert caught.value.code is ErrorCode.MONITOR_MISSING


async def test_every_order_for_a_machine_says_what_is_missing(tmp_path: Path) -> None:
    vmm = make_vmm(settings(tmp_path, has_sandboxer=True), "i")
    spec = BootSpec("a", tmp_path, tmp_path, tmp_path, "", SHAPE)
    for _ in range(2):
        with pytest.raises(SnapStartError, match="no-such-qemu"):
            vmm.check()
        with pytest.raises(SnapStartError, match="no-such-qemu"):
            await vmm.boot(spec)
        with pytest.raises(SnapStartError, match="no-such-qemu"):
            await vmm.boot_session(spec, b"{}", deadline_s=1)
