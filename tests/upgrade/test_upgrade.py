"""Programs are replaced under load, to another build and back: nothing fails, nothing is left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentd.image import Image

from .builds import Build, copied_build, this_build
from .node import run_node
from .pagers import run_pagers


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Build, Build]:
    root: Path = tmp_path_factory.mktemp("other")
    return this_build(), copied_build(root)


@pytest.mark.vm
@pytest.mark.restarts
@pytest.mark.timeout(300)
def test_agentd_is_replaced_under_sessions_that_run_code(
    guest_image: Image, builds: tuple[Build, Build]
) -> None:
    tally = run_node(guest_image, builds, sessions=3, replacements=2)
    assert (tally.failures, tally.lost, tally.leaks) == ([], [], [])
    assert tally.replaced == 2
    assert tally.calls >= 3 * 3


@pytest.mark.timeout(120)
@pytest.mark.skipif(os.geteuid() != 0, reason="userfaultfds of a guest's memory need root")
async def test_the_page_server_is_replaced_under_machines_that_check_their_memory(
    builds: tuple[Build, Build],
) -> None:
    tally = await run_pagers(builds, machines=4, replacements=4)
    assert (tally.wrong, tally.lost, tally.leaks) == (0, [], [])
    assert tally.replaced == 4
