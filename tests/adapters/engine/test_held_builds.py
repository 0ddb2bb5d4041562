"""Builds that stop where their guest waits, on fake machines."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agentd import native
from agentd.engine.engine import Engine, Outside
from agentd.engine.held import HeldState
from agentd.engine.journal import decode_lines
from agentd.errors import ErrorCode, SnapStartError
from agentd.store.templates import TemplateStore
from agentd.wire.api import CreateTemplate, TemplateState
from agentd.wire.manifest import Machine, SnapshotFacts
from tests.fakes.daemon import make_image, make_settings
from tests.fakes.vmm import FakeVmm

FACTS = SnapshotFacts("cluster", "team", "python", "uid", "sha256:1")
SHAPE = Machine(1, 1)


class Silent:
    def step(self, event: str, /, **details: str | int | float) -> None:
        pass


@asynccontextmanager
async def running(root: Path) -> AsyncIterator[tuple[Engine, FakeVmm, str]]:
    settings = make_settings(root)
    settings.data_dir.mkdir(exist_ok=True, mode=0o700)
    image = root / "image"
    if not image.exists():
        make_image(image)
    vmm = FakeVmm("inst", settings.run_dir / "vms")
    with TemplateStore(settings.data_dir, owner="inst", copier=native.copy_memory) as store:
        engine = Engine(Outside(settings, vmm, store, Silent()))
        try:
            await engine.start()
            yield engine, vmm, str(image)
        finally:
            await engine.stop()


def left(root: Path) -> list[str]:
    return [path.name for path in (root / "run/vms").iterdir()]


async def test_a_held_build_is_sealed_under_a_name_with_its_owner(tmp_path: Path) -> None:
    async with running(tmp_path) as (engine, _, image):
        build = await engine.held.hold("p-1", image, SHAPE, {"pod-uid": "u"})
        assert build.state is HeldState.WAITING
        assert engine.machines.reserved_bytes > 0, "admission counts what waits"
        template = await engine.held.seal("p-1", "key-1", FACTS)
        assert (template.state, template.snapshot) == (TemplateState.READY, FACTS)
        assert (build.state, build.over.is_set(), build.error) == (HeldState.SEALED, True, None)
        assert set(template.stages_ms) >= {"boot", "warm", "baseline", "verdict", "seal"}
        assert (engine.machines.reserved_bytes, left(tmp_path)) == (0, [])
    async with running(tmp_path) as (engine, _, _image):
        assert engine.templates.get("key-1").snapshot == FACTS


async def test_a_refused_name_leaves_the_build_waiting(tmp_path: Path) -> None:
    async with running(tmp_path) as (engine, _, image):
        engine.templates.begin(CreateTemplate(name="taken", image=image, memory_mib=1))
        await engine.held.hold("p-1", image, SHAPE, {})
        for name, code in (("taken", ErrorCode.TEMPLATE_EXISTS), ("NO", ErrorCode.NAME_INVALID)):
            with pytest.raises(SnapStartError) as caught:
                await engine.held.seal("p-1", name, FACTS)
            assert caught.value.code is code
        assert engine.held.find("p-1") is not None
        await engine.held.seal("p-1", "free", FACTS)


async def test_a_contaminated_guest_is_gone_and_nothing_is_kept(tmp_path: Path) -> None:
    async with running(tmp_path) as (engine, vmm, image):
        vmm.faults.add("contaminated")
        build = await engine.held.hold("p-1", image, SHAPE, {})
        with pytest.raises(SnapStartError) as caught:
            await engine.held.seal("p-1", "key-1", FACTS)
        assert caught.value.code is ErrorCode.GUEST_CONTAMINATED
        assert build.error is caught.value
        assert engine.templates.find("key-1") is None
        assert (engine.held.list(), left(tmp_path)) == ([], [])
    async with running(tmp_path) as (engine, _, _image):
        assert engine.templates.list() == [], "a failure is its owner's to remember"


async def test_a_cancelled_seal_ends_the_machine(tmp_path: Path) -> None:
    async with running(tmp_path) as (engine, vmm, image):
        vmm.faults.add("restless")
        await engine.held.hold("p-1", image, SHAPE, {})
        sealing = asyncio.create_task(engine.held.seal("p-1", "key-1", FACTS))
        while engine.templates.find("key-1") is None:  # noqa: ASYNC110 - nothing sets an event
            await asyncio.sleep(0)
        sealing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sealing
        assert (engine.held.list(), engine.templates.list(), left(tmp_path)) == ([], [], [])
        assert engine.machines.reserved_bytes == 0


@pytest.mark.parametrize("fault", ["die_at_start", "die_at_baseline"])
async def test_a_build_that_never_waits_leaves_nothing(tmp_path: Path, fault: str) -> None:
    async with running(tmp_path) as (engine, vmm, image):
        vmm.faults.add(fault)
        with pytest.raises(SnapStartError):
            await engine.held.hold("p-1", image, SHAPE, {})
        assert (engine.held.list(), left(tmp_path)) == ([], [])
        assert engine.machines.reserved_bytes == 0


async def test_a_cancelled_hold_leaves_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as (engine, vmm, image):
        vmm.faults.add("hang_at_baseline")
        holding = asyncio.create_task(engine.held.hold("p-1", image, SHAPE, {}))
        while not left(tmp_path):  # noqa: ASYNC110 - a directory sets no event
            await asyncio.sleep(0.01)
        holding.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await holding
        assert (engine.held.list(), left(tmp_path)) == ([], [])


async def test_one_id_holds_one_machine(tmp_path: Path) -> None:
    async with running(tmp_path) as (engine, _, image):
        await engine.held.hold("p-1", image, SHAPE, {})
        with pytest.raises(SnapStartError, match="there is one of that id"):
            await engine.held.hold("p-1", image, SHAPE, {})
        await engine.held.drop("p-1", "test")
        await engine.held.drop("p-1", "again")
        assert left(tmp_path) == []


async def test_a_stopping_daemon_ends_what_it_holds(tmp_path: Path) -> None:
    async with running(tmp_path) as (engine, _, image):
        build = await engine.held.hold("p-1", image, SHAPE, {})
    assert build.over.is_set()
    assert left(tmp_path) == []
    records, _ = decode_lines((tmp_path / "run/journal").read_bytes(), "journal")
    assert "p-1" in {getattr(record, "vm_id", "") for record in records}
