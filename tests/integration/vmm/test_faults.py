"""What a fork does when the template, the host or QEMU is not as it should be."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from agentd import native
from agentd.errors import ConfigError, ErrorCode, InvariantError, PeerError, PermanentError
from agentd.image import Image
from agentd.store.loaded import LoadedTemplate
from agentd.store.templates import TemplateStore
from agentd.units import MIB
from agentd.vmm.cgroup import CgroupTree
from agentd.vmm.qemu import Qemu
from tests.integration.vmm.support import (
    DEADLINE_S,
    SHAPE,
    Lab,
    prepare_of,
    read_state,
    sealed,
    with_facts,
    with_state,
)

pytestmark = [pytest.mark.vm, pytest.mark.timeout(120)]

# No program to start with. A kernel whose loglevel is 0 says nothing of its panic.
PANIC = "rdinit=/nonexistent init=/nonexistent panic=-1 loglevel=1"


@contextmanager
def closing_state(template: LoadedTemplate) -> Iterator[LoadedTemplate]:
    try:
        yield template
    finally:
        os.close(template.state_fd)


async def refuse(lab: Lab, template: LoadedTemplate, deadline_s: float = 30.0) -> Exception:
    """The error of a fork that has to fail, once it is sure that nothing is left of it."""
    spec = lab.fork_spec()
    with pytest.raises(Exception) as caught:
        await lab.qemu.fork(template, spec, deadline_s=deadline_s)
    assert not lab.leftovers(spec.vm_id)
    return caught.value


# -- device state --------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 100, None], ids=["empty", "100_bytes", "half"])
async def test_damaged_device_state_ends_the_fork_with_qemus_own_words(
    lab: Lab, template: LoadedTemplate, length: int | None
) -> None:
    state = read_state(template)
    cut = state[: len(state) // 2 if length is None else length]
    with closing_state(with_state(template, cut)) as damaged:
        error = await refuse(lab, damaged)
    assert isinstance(error, PeerError)
    assert error.code is ErrorCode.VMM_FAILED
    assert "QEMU said: " in error.message


async def test_qemu_accepts_a_state_without_its_tail_but_the_store_does_not(
    lab: Lab, template: LoadedTemplate, store: TemplateStore
) -> None:
    with closing_state(with_state(template, read_state(template)[:-10])) as damaged:
        started = await lab.fork(damaged)
        started.channel.sock.close()
        await started.vm.kill()
    with damaged_on_disk(store, template, lambda data: data[:-10]) as error:
        assert "device_state is cut at offset" in error.message


async def test_the_store_refuses_one_flipped_bit_of_device_state(
    template: LoadedTemplate, store: TemplateStore
) -> None:
    def flip(data: bytes) -> bytes:
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]

    with damaged_on_disk(store, template, flip) as error:
        assert "SHA-256" in error.message


@contextmanager
def damaged_on_disk(
    store: TemplateStore, template: LoadedTemplate, damage: Callable[[bytes], bytes]
) -> Iterator[PermanentError]:
    """The store's refusal of a template whose device state was changed; undone afterwards."""
    path = store._dir.path / "templates" / template.manifest.name / "device_state"
    whole, mode = path.read_bytes(), path.stat().st_mode
    path.chmod(0o600)
    path.write_bytes(damage(whole))
    path.chmod(mode)
    try:
        with pytest.raises(PermanentError) as caught:
            store.load(template.manifest.name).close()
        assert caught.value.code is ErrorCode.TEMPLATE_CORRUPT
        yield caught.value
    finally:
        path.chmod(0o600)
        path.write_bytes(whole)
        path.chmod(mode)
    store.load(template.manifest.name).close()


# -- memory --------------------------------------------------------------------------------------


async def test_memory_that_is_all_zeros_never_answers_and_is_ended(
    lab: Lab, template: LoadedTemplate
) -> None:
    memory_fd = sealed(b"", SHAPE.memory_mib * MIB)
    error = await refuse(lab, replace(template, memory_fd=memory_fd), deadline_s=3.0)
    os.close(memory_fd)
    assert isinstance(error, PeerError)
    assert error.code in (ErrorCode.GUEST_NOT_READY, ErrorCode.VMM_FAILED)


async def test_memory_that_is_gone_starts_nothing(lab: Lab, template: LoadedTemplate) -> None:
    error = await refuse(lab, replace(template, memory_fd=-1))
    assert isinstance(error, InvariantError)


async def test_memory_shorter_than_its_manifest_starts_nothing(
    lab: Lab, template: LoadedTemplate
) -> None:
    memory_fd = sealed(b"", 256 * MIB)
    error = await refuse(lab, replace(template, memory_fd=memory_fd))
    os.close(memory_fd)
    assert isinstance(error, PermanentError)
    assert error.code is ErrorCode.TEMPLATE_CORRUPT


async def test_memory_shorter_than_the_machine_is_refused_by_qemu(
    lab: Lab, template: LoadedTemplate
) -> None:
    memory_fd = sealed(b"", 256 * MIB)
    memory = msgspec.structs.replace(template.manifest.memory, size_bytes=256 * MIB)
    manifest = msgspec.structs.replace(template.manifest, memory=memory)
    error = await refuse(lab, LoadedTemplate(manifest, memory_fd, template.state_fd))
    os.close(memory_fd)
    assert isinstance(error, PeerError)
    assert "does not match" in error.message


# -- a monitor that differs ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"version": "7.2.1"}, "monitor version was '7.2.1'"),
        ({"accel": "xen"}, "accelerator was 'xen'"),
        ({"cpu": "max"}, "guest CPU model was 'max'"),
        ({"machine_type": "q35"}, "machine type was 'q35'"),
        ({"host_cpu": "Z80"}, "host CPU was 'Z80'"),
        ({"host_tsc_khz": 1}, "host TSC ran at 1 kHz"),
        ({"device_argv": ("-cpu", "max")}, "device argument 1 was 'max'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_a_template_of_another_monitor_is_refused(
    lab: Lab, template: LoadedTemplate, facts: dict[str, object], words: str
) -> None:
    error = await refuse(lab, with_facts(template, **facts))
    assert isinstance(error, PermanentError)
    assert error.code is ErrorCode.TEMPLATE_INCOMPATIBLE
    assert words in error.message


async def test_a_template_of_another_size_is_refused(lab: Lab, template: LoadedTemplate) -> None:
    machine = msgspec.structs.replace(SHAPE, memory_mib=256)
    manifest = msgspec.structs.replace(template.manifest, machine=machine)
    error = await refuse(lab, replace(template, manifest=manifest))
    assert isinstance(error, PermanentError)
    assert "device argument 3 was '512', is '256'" in error.message


async def test_the_console_of_a_kernel_that_panics_outlives_its_machine(
    lab: Lab, guest_image: Image
) -> None:
    spec = lab.boot_spec(guest_image, PANIC)
    vm = await lab.qemu.boot(spec)
    try:
        async with asyncio.timeout(DEADLINE_S):
            await vm.wait()
        assert "Kernel panic" in await vm.console_tail(deadline_s=1)
        assert not vm.has_network_device
    finally:
        await vm.kill()
    assert lab.leftovers(spec.vm_id) == []


async def test_a_cold_start_that_panics_ends_with_the_guests_last_words(
    lab: Lab, guest_image: Image
) -> None:
    spec = lab.boot_spec(guest_image, PANIC)
    with pytest.raises(PeerError, match=r"its console said last: .*Kernel panic") as caught:
        await lab.qemu.boot_session(spec, prepare_of(spec.vm_id), deadline_s=DEADLINE_S)
    assert caught.value.code is ErrorCode.VMM_FAILED
    assert lab.leftovers(spec.vm_id) == []


async def test_a_missing_qemu_is_a_matter_of_configuration(
    lab: Lab, template: LoadedTemplate
) -> None:
    settings = replace(lab.qemu._settings, binary="/nonexistent/qemu-system-x86_64")
    gone = Lab(Qemu(settings, CgroupTree.find(settings.installation)), lab.vms_dir)
    error = await refuse(gone, template)
    assert isinstance(error, ConfigError)
    assert error.code is ErrorCode.MONITOR_MISSING


# -- time ------------------------------------------------------------------------------------------


async def test_a_fork_past_its_deadline_leaves_nothing(lab: Lab, template: LoadedTemplate) -> None:
    error = await refuse(lab, template, deadline_s=0.02)
    assert isinstance(error, PeerError)
    assert error.code in (ErrorCode.GUEST_NOT_READY, ErrorCode.DEADLINE_EXCEEDED)


@pytest.mark.parametrize("after_ms", [0, 3, 15, 40, 90, 180])
async def test_a_cancelled_fork_leaves_nothing(
    lab: Lab, template: LoadedTemplate, after_ms: int
) -> None:
    spec = lab.fork_spec()
    forking = asyncio.create_task(lab.qemu.fork(template, spec, deadline_s=30))
    await asyncio.sleep(after_ms / 1000)
    forking.cancel()
    await asyncio.wait({forking})
    if not forking.cancelled():  # a fast host: it was over by then
        started = forking.result()
        started.channel.sock.close()
        await started.vm.kill()
    assert not lab.leftovers(spec.vm_id)


async def test_qemu_killed_in_the_middle_of_a_fork_is_reported(
    lab: Lab, template: LoadedTemplate
) -> None:
    spec = lab.fork_spec()
    forking = asyncio.create_task(lab.qemu.fork(template, spec, deadline_s=30))
    record = None
    while record is None:
        await asyncio.sleep(0)
        record = next((r for r in lab.qemu.find_all() if r.vm_id == spec.vm_id), None)
    os.kill(record.pid, signal.SIGKILL)
    with pytest.raises(PeerError) as caught:
        await forking
    assert caught.value.code is ErrorCode.VMM_FAILED
    assert isinstance(caught.value, native.ForkError)
    assert not lab.leftovers(spec.vm_id)


async def test_a_run_directory_that_is_missing_starts_nothing(
    lab: Lab, template: LoadedTemplate, tmp_path: Path
) -> None:
    spec = replace(lab.fork_spec(), run_dir=tmp_path / "missing")
    with pytest.raises(ConfigError) as caught:
        await lab.qemu.fork(template, spec, deadline_s=5)
    assert caught.value.code is ErrorCode.CONFIG_INVALID
    assert not lab.leftovers(spec.vm_id)
