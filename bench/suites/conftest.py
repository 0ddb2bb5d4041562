"""What suites share: the form, the budget of each test, one node with one template."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from agentd.client.calls import status
from agentd.image import Image, ImageSpec, build_image
from bench.bare_fork import BareTemplate
from bench.demo import IMAGES, MEMORY_MIB, TEMPLATE
from bench.node import Node
from bench.suites.budget import Allowance, Budget, Form
from bench.suites.outcomes import OutcomesPlugin
from bench.suites.samples import LOOK, name_of
from bench.suites.series import Series
from bench.suites.turns import TurnsPlugin


def pytest_addoption(parser: pytest.Parser) -> None:
    """The form, without which only what needs nothing but a processor runs."""
    forms = [form.value for form in Form]
    parser.addoption("--form", choices=forms, help="measure machines, servers, disks too")
    parser.addoption(
        "--looks", type=int, default=1, help="how often each series is measured that has no budget"
    )
    parser.addoption(
        "--turns", type=int, metavar="FD", help="of the link to who says when to measure"
    )
    parser.addoption("--outcomes", type=Path, help="where to write what was left out, what failed")


def pytest_configure(config: pytest.Config) -> None:
    """Progress; outcomes and turns, if they are asked for."""
    config.pluginmanager.register(Progress())
    if (path := config.getoption("--outcomes")) is not None:
        config.pluginmanager.register(OutcomesPlugin(path))
    if (fd := config.getoption("--turns")) is not None:
        config.pluginmanager.register(TurnsPlugin(fd))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Several looks at what needs nothing but a processor."""
    looks = metafunc.config.getoption("--looks")
    if looks > 1 and metafunc.definition.get_closest_marker("budget") is None:
        ids = [f"{LOOK}{number}" for number in range(looks)]
        metafunc.parametrize("look", range(looks), indirect=True, ids=ids)


@pytest.fixture(autouse=True)
def look(request: pytest.FixtureRequest) -> int:
    """Which of the looks this is."""
    return int(getattr(request, "param", 0))


def _look_of(item: pytest.Item) -> int:
    callspec = getattr(item, "callspec", None)
    return 0 if callspec is None else int(callspec.params.get("look", 0))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this run has not asked for; look at all series once before any again."""
    left = [item for item in items if not _is_wanted(config, item)]
    items[:] = sorted((item for item in items if item not in left), key=_look_of)
    if left:
        config.hook.pytest_deselected(items=left)


def _is_wanted(config: pytest.Config, item: pytest.Item) -> bool:
    form, budget = config.getoption("--form"), budget_of(item)
    return budget is None or (form is not None and budget.rounds(Form(form)) > 0)


def budget_of(item: pytest.Item) -> Budget | None:
    """What the test's mark allows; None for one that needs nothing but a processor."""
    mark = item.get_closest_marker("budget")
    return None if mark is None else Budget(*mark.args, **mark.kwargs)


class Progress:
    """A line for each test that begins, past the report of pytest."""

    def __init__(self) -> None:
        self._begun = self._all = 0

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """How many there are."""
        self._all = len(session.items)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Which one it is."""
        self._begun += 1
        words = f"measuring {self._begun} of {self._all}: {name_of(nodeid)}"
        print(words, file=sys.stderr, flush=True)


@pytest.fixture
def series(request: pytest.FixtureRequest, benchmark: BenchmarkFixture) -> Series:
    """What this test measures, within its budget."""
    budget, form = budget_of(request.node), request.config.getoption("--form")
    assert budget is not None
    return Series(benchmark, Allowance(budget, Form(form), time.monotonic))


@pytest.fixture(scope="session")
def image() -> Image:
    """The guest image of the demonstration."""
    return build_image(ImageSpec(), cache_dir=IMAGES)


@pytest.fixture(scope="session")
def node(image: Image) -> Iterator[Node]:
    """A daemon with one template, named TEMPLATE."""
    with Node(IMAGES, MACHINES__MEMORY_MIB=str(MEMORY_MIB)) as running:
        running.build_template(TEMPLATE, str(image.directory), memory_mib=MEMORY_MIB)
        yield running


@pytest.fixture(scope="session")
def machine(node: Node) -> str:
    """What the node's machines are."""
    return "kvm" if node.send(status()).accel == "kvm" else "qemu"


@pytest.fixture(scope="session")
def bare(image: Image, node: Node) -> Iterator[BareTemplate]:
    """The same guest, frozen by the bare recipe."""
    accel = node.send(status()).accel
    with BareTemplate(image.directory, qemu="qemu-system-x86_64", accel=accel) as template:
        yield template


@pytest.fixture(scope="session")
def scratch() -> Path:
    """A directory on the disk of the checkout."""
    IMAGES.parent.mkdir(exist_ok=True)
    return IMAGES.parent
