"""Writing Events fails quietly and never holds anybody up."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random

import pytest

from controlplane.errors import ControlPlaneError, ForbiddenError, UnavailableError
from controlplane.kube.backoff import Backoff
from controlplane.kube.events import ObjectRef
from controlplane.kube.recorder import EventRecorder
from controlplane.kube.resource import EVENTS
from tests.fakes.kube import FakeKube

ABOUT = ObjectRef("v1", "Pod", "p", "x", "u1")


def _recorder(kube: FakeKube) -> EventRecorder:
    return EventRecorder(
        kube,
        component="test",
        instance="here",
        backoff=Backoff(base_s=0.0, cap_s=0.0),
        random=Random(1),
        now=lambda: datetime(2026, 1, 1, tzinfo=UTC),
    )


def _stored(kube: FakeKube) -> list[tuple[str, int]]:
    return [(event["reason"], event["count"]) for event in kube.cluster.objects(EVENTS)]


async def test_stopping_writes_what_is_pending() -> None:
    kube = FakeKube()
    recorder = _recorder(kube)
    recorder.start()
    recorder.normal(ABOUT, "Begun", "it began")
    recorder.warning(ABOUT, "Failed", "it failed")
    await recorder.stop()
    await recorder.stop()
    assert sorted(_stored(kube)) == [("Begun", 1), ("Failed", 1)]


async def test_a_repetition_is_a_patch() -> None:
    kube = FakeKube()
    recorder = _recorder(kube)
    for _ in range(2):
        recorder.normal(ABOUT, "Begun", "it began")
        recorder.start()
        await recorder.stop()
    assert _stored(kube) == [("Begun", 2)]
    assert kube.counts["merge", "events"] == 1


async def test_an_event_whose_time_is_over_is_made_again() -> None:
    kube = FakeKube()
    recorder = _recorder(kube)
    for _ in range(2):
        recorder.normal(ABOUT, "Begun", "it began")
        recorder.start()
        await recorder.stop()
        for event in kube.cluster.objects(EVENTS):
            kube.cluster.delete(EVENTS, event["metadata"]["name"], namespace="x")
    assert kube.counts["create", "events"] == 2
    assert recorder.dropped == 0


@pytest.mark.parametrize(
    ("error", "count", "expected"),
    [
        (UnavailableError("away"), 3, ([("Begun", 1)], 0)),
        (UnavailableError("away"), 4, ([], 1)),
        (ForbiddenError("no"), 1, ([], 1)),
    ],
    ids=["three outages", "too many outages", "refused"],
)
async def test_failures_are_tried_a_few_times_then_counted(
    error: ControlPlaneError, count: int, expected: tuple[list[tuple[str, int]], int]
) -> None:
    kube = FakeKube()
    kube.fail_next("create", error, count)
    recorder = _recorder(kube)
    recorder.start()
    recorder.normal(ABOUT, "Begun", "it began")
    await recorder.stop()
    assert (_stored(kube), recorder.dropped) == expected


async def test_a_lost_answer_makes_no_second_event() -> None:
    kube = FakeKube()
    kube.fail_next("create", UnavailableError("away"), is_done=True)
    recorder = _recorder(kube)
    recorder.start()
    recorder.normal(ABOUT, "Begun", "it began")
    await recorder.stop()
    assert (_stored(kube), recorder.dropped) == ([("Begun", 1)], 0)
