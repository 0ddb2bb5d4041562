"""A guest that breaks the contract harms nobody but itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agentd.errors import ErrorCode, InvariantError, PeerError
from agentd.image import Image
from agentd.native import ForkError, ForkStage
from agentd.store.loaded import LoadedTemplate
from agentd.units import KIB
from agentd.vmm.machine import QMP_SOCKET
from agentd.vmm.qmp import CONSOLE_BYTES, QmpClient, read_console
from tests.integration.vmm.support import Lab, wait_for_console

pytestmark = [pytest.mark.vm, pytest.mark.timeout(120)]


async def provoke(lab: Lab, rogue: LoadedTemplate, wish: str, deadline_s: float) -> ForkError:
    """The error of a fork whose guest does what it must not."""
    spec = lab.fork_spec({"ROGUE": wish})
    with pytest.raises(ForkError) as caught:
        await lab.qemu.fork(rogue, spec, deadline_s=deadline_s)
    assert not lab.leftovers(spec.vm_id)
    assert used_bytes(spec.run_dir) < 64 * KIB
    return caught.value


def used_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*"))


@pytest.mark.parametrize("wish", ["be_silent", "be_noisy", "answer_a_stranger", "flood_console"])
async def test_a_guest_that_never_answers_is_ended_at_the_deadline(
    lab: Lab, rogue: LoadedTemplate, wish: str
) -> None:
    error = await provoke(lab, rogue, wish, deadline_s=5.0)
    assert error.code is ErrorCode.GUEST_NOT_READY
    assert error.stage is ForkStage.GUEST


@pytest.mark.parametrize("wish", ["break_frames", "announce_too_much", "flood_channel"])
async def test_a_guest_that_breaks_the_protocol_is_ended_at_once(
    lab: Lab, rogue: LoadedTemplate, wish: str
) -> None:
    error = await provoke(lab, rogue, wish, deadline_s=60)
    assert error.code is ErrorCode.GUEST_PROTOCOL


async def test_a_panic_ends_the_machine_instead_of_rebooting_it(
    lab: Lab, rogue: LoadedTemplate
) -> None:
    error = await provoke(lab, rogue, "panic", deadline_s=60)
    assert error.code is ErrorCode.VMM_FAILED
    assert error.exit_status is not None


async def whole_console(monitor: Path) -> str:
    """What the ring buffer holds, read seldom enough that it overflows in between."""
    async with asyncio.timeout(60):
        text = ""
        while "rogue waits" not in text:
            await asyncio.sleep(1.0)
            text = await read_console(monitor, deadline_s=5)
        return text


async def test_the_console_is_bounded_and_failures_of_a_checkpoint_end_the_machine(
    lab: Lab, rogue_image: Image
) -> None:
    vm = await lab.boot(rogue_image)
    try:
        text = await whole_console(vm.record.run_dir / QMP_SOCKET)
        assert "NUL\0and \ufffd go through" in text, "what the guest wrote is not cut at a NUL"
        assert len(text.encode()) <= CONSOLE_BYTES + 16
        assert used_bytes(vm.record.run_dir) < 64 * KIB
        tail = await vm.console_tail(deadline_s=5)
        assert tail.rstrip().endswith("rogue waits"), "kept, though QEMU gives each byte once"

        async with QmpClient(vm.record.run_dir / QMP_SOCKET) as busy:
            with pytest.raises(PeerError) as refused:
                await busy.execute("no-such-command")
            assert refused.value.code is ErrorCode.VMM_FAILED
            # One monitor, one client: a checkpoint waits behind us up to its deadline.
            with pytest.raises(Exception, match="freezing machine"):
                await lab.qemu.checkpoint(vm, deadline_s=0.3)
        assert not vm.is_running
        assert not lab.leftovers(vm.record.vm_id)
        with pytest.raises(InvariantError):
            await lab.qemu.checkpoint(vm, deadline_s=1)
    finally:
        await vm.kill()


async def test_a_cancelled_checkpoint_ends_the_machine(lab: Lab, rogue_image: Image) -> None:
    vm = await lab.boot(rogue_image)
    tail = await wait_for_console(vm, "rogue waits")
    assert len(tail) <= 4096
    freezing = asyncio.create_task(lab.qemu.checkpoint(vm, deadline_s=30))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    freezing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await freezing
    assert not vm.is_running
    assert not lab.leftovers(vm.record.vm_id)


async def test_a_cold_session_that_never_gets_ready_leaves_nothing(
    lab: Lab, guest_image: Image
) -> None:
    spec = lab.boot_spec(guest_image)
    with pytest.raises(PeerError) as caught:
        await lab.qemu.boot_session(spec, b"{}", deadline_s=1.0)
    assert caught.value.code is ErrorCode.GUEST_NOT_READY
    assert not lab.leftovers(spec.vm_id)
