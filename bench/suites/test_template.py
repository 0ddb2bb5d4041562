"""What does it take to build a template, to seal it, to read it whole?"""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path

import pytest

from agentd.client.calls import verify_template
from agentd.engine.build import STAGES
from agentd.image import Image
from agentd.wire import api
from bench.demo import MEMORY_MIB, TEMPLATE
from bench.node import Node
from bench.sealing import measure_sealing
from bench.suites.series import Series


@pytest.mark.budget(quick_s=45, quick=3, full=20)
def test_a_template_is_built(series: Series, node: Node, image: Image, machine: str) -> None:
    """template.build: from the request to the answer that says ready; asked every 0.1 s.

    template.build.stage: when each stage was over, by the times the daemon says they took, one
    after the other.
    """
    series.describe("template.build", machine=machine, cache="warm")

    def after(built: api.Template) -> None:
        node.remove_template(built.name)
        order = sorted(built.stages_ms, key=lambda stage: STAGES.get(stage, 0.0))
        took_ms = [built.stages_ms[stage] for stage in order]
        for stage, over_ms in zip(order, accumulate(took_ms), strict=True):
            series.also("template.build.stage", over_ms, stage=stage)

    series.rounds(
        lambda: node.build_template("again", str(image.directory), memory_mib=MEMORY_MIB),
        after=after,
    )


@pytest.mark.budget(quick_s=8, quick=5, full=30)
def test_a_template_is_verified(series: Series, node: Node, machine: str) -> None:
    """From the request to its answer: every byte of a template of 512 MiB was read and digested."""
    series.describe("template.verify", machine=machine, cache="warm")
    series.rounds(lambda: node.send(verify_template(TEMPLATE)))


@pytest.mark.budget(quick_s=20, quick=15, full=60)
def test_memory_is_sealed_in_turn_with_a_plain_copy(series: Series, scratch: Path) -> None:
    """seal: 512 MiB of memory, 195 of them data, from the call to the end of fsync(2).

    seal.plain: the same data, copied with the standard library, likewise.
    """
    sealed, plain = series.once(lambda: measure_sealing(series.wanted, scratch))
    series.also_all("seal", sealed)
    series.also_all("seal.plain", plain)
