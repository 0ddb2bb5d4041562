"""An informer ends up with what the server has, whatever happens in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from random import Random

import pytest

from controlplane.api.core import Node
from controlplane.api.meta import JsonObject
from controlplane.errors import ControlPlaneError, ExpiredError, InvariantError, UnavailableError
from controlplane.kube.backoff import Backoff
from controlplane.kube.cache import Undecodable
from controlplane.kube.informer import Informer
from controlplane.kube.reflection import FollowPolicy
from controlplane.kube.resource import NODES
from tests.fakes.kube import FakeKube

AT_ONCE = FollowPolicy(backoff=Backoff(base_s=0.0, cap_s=0.0))


class Rig:
    """An informer of Nodes, what its handler saw, a way to wait for it."""

    def __init__(self) -> None:
        self.kube = FakeKube()
        self.cluster = self.kube.cluster
        self.problems: list[Undecodable] = []
        self.seen: list[tuple[str, str]] = []
        self._changed = asyncio.Event()
        self.informer = Informer(
            self.kube,
            NODES,
            Node,
            indexers={"zone": lambda node: [node.metadata.label("zone")]},
            on_undecodable=self.problems.append,
            policy=AT_ONCE,
            random=Random(1),
        )
        self.informer.add_handler(self._note)

    def _note(self, old: Node | None, new: Node | None) -> None:
        verb = "changed" if old and new else "added" if new else "deleted"
        found = new or old
        assert found is not None
        self.seen.append((verb, found.metadata.name))
        self._changed.set()

    def node(self, name: str, **labels: str) -> JsonObject:
        return self.cluster.create(NODES, {"metadata": {"name": name, "labels": labels}})

    async def until(self, is_true: Callable[[], bool]) -> None:
        """Let tasks run until something holds; the test's timeout is the limit."""
        for _ in range(100_000):
            if is_true():
                return
            await asyncio.sleep(0)
        raise AssertionError(f"never came true; seen: {self.seen}")

    async def until_equal(self) -> None:
        def is_equal() -> bool:
            there = {
                (body["metadata"]["name"], body["metadata"]["resourceVersion"])
                for body in self.cluster.objects(NODES)
            }
            copies = {(n.metadata.name, n.metadata.resource_version) for n in self.informer.all()}
            return there == copies

        await self.until(is_equal)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    yield made
    await made.informer.stop()


async def _start(rig: Rig) -> None:
    rig.informer.start()
    await rig.informer.wait_synced()
    await rig.until(lambda: bool(rig.cluster.open_watches))


async def test_handlers_see_the_list_then_the_changes(rig: Rig) -> None:
    rig.node("a", zone="z")
    await _start(rig)
    rig.cluster.merge(NODES, "a", {"metadata": {"labels": {"zone": "y"}}})
    rig.cluster.delete(NODES, "a")
    await rig.until_equal()
    assert rig.seen == [("added", "a"), ("changed", "a"), ("deleted", "a")]
    assert rig.informer.by_index("zone", "y") == ()


async def test_nothing_is_asked_again_while_nothing_happens(rig: Rig) -> None:
    await _start(rig)
    before = rig.kube.counts.total()
    rig.cluster.send_bookmarks()
    await asyncio.sleep(0)
    assert rig.kube.counts.total() == before


async def test_a_watch_that_the_server_ended_is_resumed_not_listed(rig: Rig) -> None:
    await _start(rig)
    rig.node("a")
    await rig.until_equal()
    rig.kube.drop_watches()
    rig.node("b")
    await rig.until_equal()
    assert rig.kube.counts["list", "nodes"] == 1


async def test_a_deletion_during_a_partition_is_not_missed(rig: Rig) -> None:
    rig.node("a")
    rig.node("b")
    await _start(rig)
    rig.kube.partition()
    await rig.until(lambda: rig.informer.last_error is not None)
    rig.cluster.delete(NODES, "a")
    rig.cluster.compact()
    rig.kube.heal()
    await rig.until_equal()
    assert ("deleted", "a") in rig.seen
    await rig.until(lambda: rig.informer.last_error is None)


async def test_an_expired_version_leads_to_a_list(rig: Rig) -> None:
    await _start(rig)
    rig.kube.drop_watches()
    rig.node("a")
    rig.cluster.compact()
    await rig.until_equal()
    assert rig.kube.counts["list", "nodes"] == 2


async def test_a_restored_backup_is_noticed(rig: Rig) -> None:
    rig.node("a")
    backup = rig.cluster.backup()
    rig.node("b")
    await _start(rig)
    rig.cluster.restore(backup)
    await rig.until_equal()
    assert rig.seen[-1] == ("deleted", "b")


async def test_a_recreated_object_is_seen_to_go(rig: Rig) -> None:
    rig.node("a")
    await _start(rig)
    rig.kube.partition()
    rig.cluster.delete(NODES, "a")
    rig.node("a")
    rig.cluster.compact()
    rig.kube.heal()
    await rig.until_equal()
    assert rig.seen == [("added", "a"), ("deleted", "a"), ("added", "a")]


@pytest.mark.parametrize("error", [UnavailableError("away"), ExpiredError("old")], ids=str)
async def test_failing_lists_and_watches_are_tried_again(
    rig: Rig, error: ControlPlaneError
) -> None:
    rig.kube.fail_next("list", error, 3)
    rig.kube.fail_next("watch", error, 3)
    rig.node("a")
    await _start(rig)
    rig.node("b")
    await rig.until_equal()


async def test_a_defect_of_the_adapter_does_not_end_the_informer(rig: Rig) -> None:
    rig.kube.fail_next("list", ZeroDivisionError("defect"))
    rig.node("a")
    rig.informer.start()
    await rig.until(lambda: isinstance(rig.informer.last_error, InvariantError))
    await rig.until_equal()


async def test_a_handler_that_raises_does_not_keep_others_from_hearing(rig: Rig) -> None:
    heard: list[str] = []

    def broken(old: Node | None, new: Node | None) -> None:
        raise ZeroDivisionError

    rig.informer.add_handler(broken)
    rig.informer.add_handler(lambda old, new: heard.append("x"))
    rig.node("a")
    rig.node("b")
    await _start(rig)
    assert heard == ["x", "x"]


async def test_an_object_that_does_not_fit_is_reported_once(rig: Rig) -> None:
    rig.node("good")
    rig.cluster.create(NODES, {"metadata": {"name": "bad"}, "spec": {"taints": "none"}})
    await _start(rig)
    for zone in "xyz":
        rig.cluster.merge(NODES, "good", {"metadata": {"labels": {"zone": zone}}})
    await rig.until(lambda: bool(rig.informer.by_index("zone", "z")))
    assert [problem.key for problem in rig.problems] == [("", "bad")]
    assert len(rig.informer.undecodable) == 1
    rig.cluster.merge(NODES, "bad", {"spec": {"taints": None}})
    await rig.until_equal()
    assert rig.informer.undecodable == ()


async def test_its_end_closes_the_watch(rig: Rig) -> None:
    await _start(rig)
    await rig.informer.stop()
    await rig.informer.stop()
    assert rig.cluster.open_watches == ()
    with pytest.raises(InvariantError):
        rig.informer.start()


@pytest.mark.parametrize("seed", range(20))
async def test_any_weather_ends_in_equality(rig: Rig, seed: int) -> None:
    random = Random(seed)
    rig.informer.start()
    for number in range(60):
        name = random.choice("abcde")
        match random.randrange(8):
            case 0:
                rig.kube.drop_watches()
            case 1:
                rig.kube.drop_watches(UnavailableError("reset"))
            case 2:
                rig.cluster.compact()
            case 3:
                rig.kube.partition()
            case 4:
                rig.kube.heal()
            case _ if rig.cluster.list(NODES, fields=f"metadata.name={name}").items:
                if random.random() < 0.5:
                    rig.cluster.delete(NODES, name)
                else:
                    rig.cluster.merge(NODES, name, {"metadata": {"labels": {"n": str(number)}}})
            case _:
                rig.node(name)
        for _ in range(random.randrange(6)):
            await asyncio.sleep(0)
    rig.kube.heal()
    await rig.until_equal()
    there: set[str] = set()
    for verb, name in rig.seen:
        assert (name in there) is (verb != "added")
        there = there - {name} if verb == "deleted" else there | {name}
    assert there == {node.metadata.name for node in rig.informer.all()}
