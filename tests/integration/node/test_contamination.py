"""A guest that holds user state, or lies about it, does not become a template."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.errors import ErrorCode, SnapStartError
from agentd.image import Image
from agentd.vmm.qemu import Qemu
from agentd.warmfork.channel import GuestChannel
from agentd.warmfork.services import fetch_status, take_baseline
from agentd.warmfork.verdict import HostKnowledge, judge_contamination
from bench.node import Node
from tests.integration.node.images import (
    MISBEHAVING_MAIN,
    MISBEHAVING_PRELOAD,
    MISBEHAVIOUR,
    build_changed_image,
    with_words,
)
from tests.integration.node.survey import machine_ids
from tests.integration.vmm.support import Lab

pytestmark = [pytest.mark.vm, pytest.mark.timeout(180)]

DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def misbehaving(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """An image that does wrong what it is told to by its kernel command line."""
    return build_changed_image(
        tmp_path_factory.mktemp("misbehaving"),
        MISBEHAVING_MAIN,
        preload=("agentd.guest.misbehaving",),
        misbehaviour=MISBEHAVIOUR,
        misbehaving=MISBEHAVING_PRELOAD,
    )


@pytest.fixture
def refused(node: Node) -> Iterator[str]:
    """A template's name; afterwards, nothing of the attempt may be left."""
    name = "refused"
    yield name
    node.remove_template(name)
    assert machine_ids(node) == frozenset()
    assert list((node.root / "run" / "vms").iterdir()) == []
    for folder in ("staging", "trash"):
        assert list((node.root / "data" / folder).iterdir()) == []


def build(node: Node, name: str, image: Path) -> SnapStartError:
    with pytest.raises(SnapStartError) as caught:
        node.build_template(name, str(image))
    shown = [template for template in node.templates() if template.name == name]
    assert [template.error is not None for template in shown] == [True]
    assert not (node.root / "data" / "templates" / name).exists()
    return caught.value


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("execute", "interpreter: names secret"),
        ("open_gate", "the gate is 'open', not closed"),
        ("workspace", "workspace: added /workspace/left.txt"),
        ("thread", "thread: interpreter thread lurker (zygote)"),
        ("process", "process: pid "),
        ("connection", "connection: tcp "),
        ("mount", "mount: tmpfs /mnt tmpfs"),
        ("environment", "environment: variable LEAK"),
        ("lie_process", "is not of the baseline"),
        ("lie_workspace", "the workspace is not empty"),
        ("lie_user_state", "user state is loaded"),
    ],
)
def test_a_guest_that_is_not_clean_is_refused(
    node: Node, misbehaving: Image, refused: str, tmp_path: Path, word: str, reason: str
) -> None:
    error = build(node, refused, with_words(misbehaving, tmp_path / "i", f"misbehave={word}"))
    assert error.code is ErrorCode.GUEST_CONTAMINATED
    assert reason in error.message


def test_the_same_image_is_taken_when_it_behaves(node: Node, misbehaving: Image) -> None:
    node.build_template("behaves", str(misbehaving.directory))
    node.remove_template("behaves")


def test_a_machine_that_was_asked_to_execute_or_inject_is_refused_though_it_says_it_is_safe(
    qemu: Qemu, vms_dir: Path, guest_image: Image
) -> None:
    async def ask() -> None:
        vm = await Lab(qemu, vms_dir).boot(guest_image)
        try:
            channel = await GuestChannel.connect(vm.channel_path, deadline_s=DEADLINE_S)
            for service in ("inject", "execute"):
                async with await channel.open(service):
                    pass
            await take_baseline(channel, deadline_s=DEADLINE_S)
            status = await fetch_status(channel, deadline_s=DEADLINE_S)
            assert (status.safe_to_snapshot, status.reasons) == (True, [])
            verdict = str(judge_contamination(status, HostKnowledge(channel.opened, False)))
            await channel.close()
        finally:
            await vm.kill()
        assert "1 stream(s) of service 'inject' have been opened to the VM" in verdict
        assert "1 stream(s) of service 'execute' have been opened to the VM" in verdict

    asyncio.run(ask())
