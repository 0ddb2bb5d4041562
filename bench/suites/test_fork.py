"""What does agentd add to the bare recipe of a fork, stage by stage?"""

from __future__ import annotations

import pytest

from agentd.cli.demo_starts import Start, start_session
from bench.bare_fork import NUMPY_REQUEST, BareTemplate
from bench.demo import TEMPLATE
from bench.node import Node
from bench.suites.series import Series


@pytest.mark.budget(quick_s=45, quick=30, full=200)
def test_a_fork_in_turn_with_the_bare_recipe(
    series: Series, node: Node, bare: BareTemplate, machine: str
) -> None:
    """fork: from the client's request for a session to the reply of its first code.

    fork.bare: from the start of the recipe to the same reply. Whoever is first changes from round
    to round. fork.stage, fork.bare.stage: when each stage was reached, since the same begin.
    """
    series.describe("fork", machine=machine, cache="warm", request="numpy")

    def fork_bare() -> None:
        vm, sample = bare.fork(NUMPY_REQUEST)
        vm.kill()
        series.also("fork.bare", sample.total_ms, request="numpy")
        for stage, at_ms in sample.stages_ms.items():
            series.also("fork.bare.stage", at_ms, stage=stage)

    def before() -> None:
        if series.number % 2:
            fork_bare()

    def after(start: Start) -> None:
        start.sandbox.kill()
        assert start.stages is not None
        for stage in start.stages.__struct_fields__:
            series.also("fork.stage", getattr(start.stages, stage), stage=stage)
        if not series.number % 2:
            fork_bare()

    series.rounds(lambda: start_session(node, TEMPLATE), before=before, after=after)
