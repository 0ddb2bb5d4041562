"""At most one leads; a lost Lease ends the work; a given back one is taken at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from controlplane.api.meta import JsonObject, OwnerReference
from controlplane.errors import ConflictError, InvariantError, PeerError, UnavailableError
from controlplane.kube.lease import Clocks, LeaderElection, LeaseHolder, LeaseTiming
from controlplane.kube.leases import (
    LeaseName,
    held_body,
    micro_time,
    observe_lease,
    released_body,
)
from controlplane.kube.resource import LEASES
from tests.fakes.kube import FakeCluster, FakeKube

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TIMING = LeaseTiming(duration_s=15, deadline_s=10.0, retry_s=0.001)


class Clock:
    """Both clocks of one machine; skew_s: how wrong its wall clock is."""

    def __init__(self, skew_s: float = 0.0) -> None:
        self.s = 1000.0
        self.skew_s = skew_s

    @property
    def clocks(self) -> Clocks:
        return Clocks(
            monotonic=lambda: self.s,
            now=lambda: NOW + timedelta(seconds=self.s + self.skew_s),
        )


def _name(identity: str) -> LeaseName:
    return LeaseName("x", "leader", identity)


def _election(kube: FakeKube, identity: str, clock: Clock) -> LeaderElection:
    return LeaderElection(
        kube, _name(identity), timing=TIMING, clocks=clock.clocks, random=Random(1)
    )


async def _until(is_true: Callable[[], bool]) -> None:
    while not is_true():  # noqa: ASYNC110 - the fake has no event for it
        await asyncio.sleep(0.001)


def _spec(cluster: FakeCluster) -> JsonObject:
    spec: JsonObject = cluster.get(LEASES, "leader", "x")["spec"]
    return spec


async def _forever() -> None:
    await asyncio.Event().wait()


def test_a_holder_is_judged_by_the_local_clock_alone() -> None:
    body = held_body(_name("one"), None, NOW, 15)
    seen = observe_lease(None, body, 100.0)
    assert not seen.is_free_for("two", 114.9)
    assert seen.is_free_for("two", 115.0)
    assert seen.is_free_for("one", 100.0)
    again = observe_lease(seen, body, 110.0)
    assert again.changed_s == 100.0
    renewed = observe_lease(again, held_body(_name("one"), again, NOW, 16), 112.0)
    assert renewed.changed_s == 112.0


def test_taking_over_counts_a_transition_renewing_none() -> None:
    first = held_body(_name("one"), None, NOW, 15)
    renewed = held_body(_name("one"), observe_lease(None, first, 0.0), NOW + timedelta(1), 15)
    taken = held_body(_name("two"), observe_lease(None, renewed, 0.0), NOW + timedelta(2), 15)
    assert [b["spec"]["leaseTransitions"] for b in (first, renewed, taken)] == [0, 0, 1]
    assert renewed["spec"]["acquireTime"] == first["spec"]["acquireTime"]
    assert taken["spec"]["acquireTime"] == micro_time(NOW + timedelta(2))
    assert micro_time(NOW) == "2026-01-01T00:00:00.000000Z"


def test_a_released_lease_is_free_for_everybody() -> None:
    held = observe_lease(None, held_body(_name("one"), None, NOW, 15), 0.0)
    released = observe_lease(held, released_body(_name("one"), held, NOW), 0.0)
    assert released.is_free_for("two", 0.0)


def test_what_is_no_lease_is_refused() -> None:
    with pytest.raises(PeerError):
        observe_lease(None, {"metadata": {}, "spec": {"renewTime": "yesterday"}}, 0.0)


def test_timing_that_lets_two_lead_is_refused() -> None:
    with pytest.raises(InvariantError):
        LeaseTiming(duration_s=10, deadline_s=10.0)


async def test_work_that_ends_gives_the_lease_back() -> None:
    kube, clock = FakeKube(), Clock()

    async def work() -> None:
        assert _spec(kube.cluster)["holderIdentity"] == "one"

    assert await _election(kube, "one", clock).lead(work) is True
    assert _spec(kube.cluster)["holderIdentity"] == ""


async def test_work_that_fails_gives_the_lease_back_and_is_heard() -> None:
    kube = FakeKube()

    async def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await _election(kube, "one", Clock()).lead(work)
    assert _spec(kube.cluster)["holderIdentity"] == ""


@pytest.mark.parametrize("skew_s", [-86400.0, 0.0, 86400.0])
async def test_a_dead_leader_is_followed_whatever_its_clock_says(skew_s: float) -> None:
    cluster = FakeCluster()
    dead, clock = FakeKube(cluster), Clock()
    cluster.create(LEASES, held_body(_name("dead"), None, NOW + timedelta(seconds=skew_s), 15))
    election = _election(FakeKube(cluster), "two", clock)
    leading = asyncio.create_task(election.lead(_forever))
    await asyncio.sleep(0.02)
    assert not election.is_leader
    clock.s += 16
    await _until(lambda: election.is_leader)
    assert _spec(cluster)["leaseTransitions"] == 1
    leading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leading
    del dead


@pytest.mark.parametrize("jump_s", [-3600.0, 3600.0], ids=["back", "forward"])
async def test_a_wall_clock_that_is_set_ends_no_leadership_and_begins_none(jump_s: float) -> None:
    cluster, clocks = FakeCluster(), (Clock(), Clock())
    first, second = (
        _election(FakeKube(cluster), name, clock)
        for name, clock in zip(("one", "two"), clocks, strict=True)
    )
    leading = asyncio.create_task(first.lead(_forever))
    await _until(lambda: first.is_leader)
    waiting = asyncio.create_task(second.lead(_forever))
    for clock in clocks:  # one after the other: meanwhile they differ by the jump
        clock.skew_s = jump_s
        for _ in range(20):  # longer than a Lease, in steps that a leader renews within
            await asyncio.sleep(0.01)
            assert first.is_leader
            assert not second.is_leader
            for each in clocks:
                each.s += 1
    assert _spec(cluster)["leaseTransitions"] == 0
    for task in (waiting, leading):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_leader_that_cannot_renew_stops_before_others_may_start() -> None:
    cluster, clock = FakeCluster(), Clock()
    kube = FakeKube(cluster)
    election = _election(kube, "one", clock)
    ended_at: list[float] = []

    async def work() -> None:
        try:
            await _forever()
        finally:
            ended_at.append(clock.s)

    leading = asyncio.create_task(election.lead(work))
    await _until(lambda: election.is_leader)
    kube.partition()
    clock.s += 9
    await asyncio.sleep(0.01)
    assert not ended_at
    assert election.is_leader
    clock.s += 2
    assert not election.is_leader
    assert await leading is False
    assert ended_at == [1011.0]


async def test_a_leader_whose_lease_another_holds_stops() -> None:
    cluster, clock = FakeCluster(), Clock()
    election = _election(FakeKube(cluster), "one", clock)
    leading = asyncio.create_task(election.lead(_forever))
    await _until(lambda: election.is_leader)
    cluster.merge(LEASES, "leader", {"spec": {"holderIdentity": "two"}}, namespace="x")
    assert await leading is False
    assert _spec(cluster)["holderIdentity"] == "two"


async def test_a_leader_that_another_led_after_stops_even_if_the_lease_is_free_again() -> None:
    cluster, clock = FakeCluster(), Clock()
    election = _election(FakeKube(cluster), "one", clock)
    leading = asyncio.create_task(election.lead(_forever))
    await _until(lambda: election.is_leader)
    spec = {"holderIdentity": "", "leaseTransitions": 1}
    cluster.merge(LEASES, "leader", {"spec": spec}, namespace="x")
    assert await leading is False


async def test_a_short_outage_and_a_conflict_do_not_end_the_work() -> None:
    cluster, clock = FakeCluster(), Clock()
    kube = FakeKube(cluster)
    election = _election(kube, "one", clock)
    leading = asyncio.create_task(election.lead(_forever))
    await _until(lambda: election.is_leader)
    kube.fail_next("replace", UnavailableError("away"), 3, is_done=True)
    cluster.merge(LEASES, "leader", {"metadata": {"labels": {"a": "b"}}}, namespace="x")
    before = kube.counts["replace", "leases"]
    await _until(lambda: kube.counts["replace", "leases"] > before + 6)
    assert not leading.done()
    cluster.delete(LEASES, "leader", namespace="x")
    await _until(lambda: bool(cluster.objects(LEASES)))
    assert not leading.done()
    leading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leading


async def test_cancelling_twice_still_waits_for_the_work_and_gives_the_lease_back() -> None:
    cluster, clock = FakeCluster(), Clock()
    election = _election(FakeKube(cluster), "one", clock)
    may_end, is_ending = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        try:
            await _forever()
        finally:
            is_ending.set()
            await may_end.wait()

    leading = asyncio.create_task(election.lead(work))
    await _until(lambda: election.is_leader)
    leading.cancel()
    await is_ending.wait()
    leading.cancel()
    await asyncio.sleep(0.01)
    assert not leading.done()
    assert _spec(cluster)["holderIdentity"] == "one"
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await leading
    assert _spec(cluster)["holderIdentity"] == ""


async def test_of_many_candidates_one_leads_at_a_time() -> None:
    cluster, clock = FakeCluster(), Clock()
    leading: list[str] = []
    led: list[str] = []

    async def work(identity: str) -> None:
        assert not leading
        leading.append(identity)
        await asyncio.sleep(0.003)
        leading.remove(identity)
        led.append(identity)

    async def candidate(identity: str) -> None:
        election = _election(FakeKube(cluster), identity, clock)
        assert await election.lead(lambda: work(identity))

    await asyncio.gather(*(candidate(str(n)) for n in range(5)))
    assert sorted(led) == ["0", "1", "2", "3", "4"]


async def test_a_sign_of_life_carries_its_owner_and_is_made_again() -> None:
    kube, clock = FakeKube(), Clock()
    owner = OwnerReference(api_version="v1", kind="Node", name="n", uid="u")
    holder = LeaseHolder(kube, _name("agent"), owners=(owner,), clocks=clock.clocks)
    await holder.renew()
    made = kube.cluster.get(LEASES, "leader", "x")
    assert made["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u"}
    ]
    kube.cluster.delete(LEASES, "leader", namespace="x")
    await holder.renew()
    assert holder.is_current
    clock.s += 41
    assert not holder.is_current


async def test_a_renewal_is_one_call() -> None:
    kube, clock = FakeKube(), Clock()
    holder = LeaseHolder(kube, _name("agent"), clocks=clock.clocks)
    await holder.renew()
    before = kube.counts.total()
    clock.s += 10
    await holder.renew()
    assert kube.counts.total() == before + 1


async def test_a_sign_of_life_goes_on_through_outages_until_stopped() -> None:
    kube, clock = FakeKube(), Clock()
    holder = LeaseHolder(kube, _name("agent"), interval_s=0.002, clocks=clock.clocks)
    holder.start()
    await _until(lambda: holder.is_current)
    kube.partition()
    await _until(lambda: holder.last_error is not None)
    kube.heal()
    await _until(lambda: holder.last_error is None)
    await holder.stop()
    await holder.stop()
    assert _spec(kube.cluster)["holderIdentity"] == "agent"


async def test_a_sign_of_life_of_another_is_not_taken_over() -> None:
    cluster, clock = FakeCluster(), Clock()
    cluster.create(LEASES, held_body(_name("other"), None, NOW, 40))
    holder = LeaseHolder(FakeKube(cluster), _name("agent"), clocks=clock.clocks)
    with pytest.raises(ConflictError, match="'other'"):
        await holder.renew()
    clock.s += 41
    await holder.renew()
    assert _spec(cluster)["holderIdentity"] == "agent"
