"""A Node says what works there: checked, with patience, no longer than it does."""

from __future__ import annotations

import pytest

from agentd.errors import ErrorCode, PeerError
from agentd.node.provider_labels import GRACE_S, ProviderLabels
from controlplane.api import names
from controlplane.api.types import SnapshotMode
from controlplane.errors import UnavailableError
from controlplane.kube.resource import NODES
from tests.fakes.kube import FakeKube

PROVIDER = "snapstart.qemu.org"
LABEL = names.provider_label(PROVIDER)
STALE = names.provider_label("snapstart.gone.example")


class Trace:
    def step(self, event: str, /, **details: str | int | float) -> None:
        pass


class Driver:
    """Answers what it is told to. answer: None raises."""

    name = PROVIDER

    def __init__(self) -> None:
        self.answer: frozenset[SnapshotMode] | None = frozenset({SnapshotMode.FORK})

    async def capabilities(self) -> frozenset[SnapshotMode]:
        if self.answer is None:
            raise PeerError(ErrorCode.VMM_FAILED, "no answer")
        return self.answer


class Rig:
    def __init__(self) -> None:
        self.kube = FakeKube()
        labels = {"zone": "a", STALE: "true"}
        self.kube.cluster.create(NODES, {"metadata": {"name": "node-a", "labels": labels}})
        self.driver = Driver()
        self.now_s = 0.0
        drivers = {PROVIDER: self.driver}
        self.labels = ProviderLabels(
            self.kube,
            drivers,  # type: ignore[arg-type]
            "node-a",
            Trace(),
            lambda: self.now_s,
        )

    def found(self) -> dict[str, str]:
        """The Node's labels."""
        labels: dict[str, str] = self.kube.cluster.get(NODES, "node-a")["metadata"]["labels"]
        return labels


@pytest.fixture
def rig() -> Rig:
    return Rig()


async def test_defect_67_a_checked_provider_is_advertised_and_no_other(rig: Rig) -> None:
    await rig.labels.refresh()
    assert rig.found() == {"zone": "a", LABEL: "true"}


@pytest.mark.parametrize("answer", [None, frozenset()], ids=["an error", "no mode"])
async def test_defect_67_a_provider_that_stops_working_loses_its_label_after_a_while(
    rig: Rig, answer: frozenset[SnapshotMode] | None
) -> None:
    await rig.labels.refresh()
    rig.driver.answer = answer
    rig.now_s = GRACE_S
    await rig.labels.refresh()
    assert LABEL in rig.found(), "one check that fails is no end"
    rig.now_s = GRACE_S + 1
    await rig.labels.refresh()
    assert rig.found() == {"zone": "a"}


async def test_defect_67_it_comes_back_with_the_provider(rig: Rig) -> None:
    rig.driver.answer = None
    await rig.labels.refresh()
    assert LABEL not in rig.found()
    rig.driver.answer = frozenset({SnapshotMode.FORK})
    await rig.labels.refresh()
    assert LABEL in rig.found()


async def test_labels_that_are_right_are_not_written_again(rig: Rig) -> None:
    await rig.labels.refresh()
    before = rig.kube.writes
    await rig.labels.refresh()
    assert rig.kube.writes == before


async def test_who_stops_takes_its_labels_along_if_it_can(rig: Rig) -> None:
    await rig.labels.refresh()
    rig.kube.fail_next("get", UnavailableError("away"))
    await rig.labels.withdraw()
    assert LABEL in rig.found()
    await rig.labels.withdraw()
    assert rig.found() == {"zone": "a"}
