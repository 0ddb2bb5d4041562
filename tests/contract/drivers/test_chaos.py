"""500 creates and deletes of which any may go wrong, while others come, go, crash, restart.

The seed is printed; CHAOS_SEED sets another one. What goes wrong when still depends on how the
loop's turns fall, so that a seed makes a failure likely again, not certain.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from agentd.errors import ErrorCode, SnapStartError
from agentd.kuasar.client import Form
from agentd.providers.driver import LocalArtifact
from agentd.providers.ledger import Order
from tests.adapters.providers.kuasar_world import (
    OWNER,
    HastyAccess,
    KuasarWorld,
    kuasar_world,
    under_way,
    until,
)
from tests.fakes.kuasar.faults import Abort, Delay, Fault
from tests.fakes.kuasar.sandboxer import Config, Sandbox, Template

SEED: Final = int(os.environ.get("CHAOS_SEED", "20"))
ORDERS: Final = 500
KEYS: Final = [f"key-{number}" for number in range(3)]
HASHES: Final = [*["sha256:one"] * 4, "sha256:two"]
FAULTS: Final[list[Fault]] = [
    *("lose", "drop"),
    b"nonsense\n",
    Delay(0.01),
    Abort("WarmFork ready-check failed before snapshot: CONNECT_FAILED"),
    Abort("disk copy failed: No space left on device"),
]


class ImpatientAccess(HastyAccess):
    """Its orders are given up soon, so that what comes late is no rarity."""

    create_s = 0.3


class Chaos:
    """One agent after another, on a sandboxer of which everything is known.

    made_for: the hash that each template's Pod was built for.
    """

    def __init__(self, world: KuasarWorld, rng: random.Random) -> None:
        self.world = world
        self.rng = rng
        self.made_for: dict[str, str] = {}
        self.outcomes: Counter[str] = Counter()
        self._hash_of_pod: dict[str, str] = {}
        self._sessions: list[Sandbox] = []
        self._is_calm = False
        self._pausing: set[str] = set()
        self._making: dict[str, asyncio.Task[LocalArtifact]] = {}
        # Half of a message of gRPC's may be a whole one: a lie that nobody can see through.
        is_json = world.node.form is Form.JSON
        self._faults = [*FAULTS, "truncate", "twice"] if is_json else FAULTS
        self._slow_faults: list[Fault] = ["hang"] if is_json else ["hang", "twice"]
        self._create = world.sandboxer.create_fork
        world.sandboxer.create_fork = self._observed_create  # type: ignore[method-assign]
        world.sandboxer.pausing = self._pause

    # -- what is watched ------------------------------------------------------------------

    async def _observed_create(self, sandbox: Sandbox, key: str) -> Template:
        template = await self._create(sandbox, key)
        self.made_for[template.template_id] = self._hash_of_pod[sandbox.pod_uid]
        return template

    async def _pause(self, sandbox: Sandbox) -> None:
        """A guest is paused meanwhile. Whoever wanted that may leave; or it takes longer than
        anybody waits, where that does not end the work.
        """
        self._pausing.add(sandbox.id)
        try:
            await asyncio.sleep(self._pause_s(sandbox))
        finally:
            self._pausing.remove(sandbox.id)

    def _pause_s(self, sandbox: Sandbox) -> float:
        if self._is_calm:
            return 0.0
        if self.rng.random() < 0.15 and (making := self._making.get(sandbox.pod_uid)):
            making.cancel()
            return 0.03
        if self.world.node.form is Form.JSON and self.rng.random() < 0.1:
            return ImpatientAccess.create_s + self.rng.uniform(0.0, 0.5)
        return 0.0

    def stuck(self) -> list[str]:
        """Guests that are paused although no snapshot of them is being made."""
        sandboxes = self.world.sandboxer.sandboxes.values()
        return [one.id for one in sandboxes if one.is_paused and one.id not in self._pausing]

    def newest(self, key: str) -> Template:
        """The one that a restore takes."""
        return max(self.world.templates(key), key=lambda one: one.created_at_secs)

    def check(self, artifact: LocalArtifact) -> None:
        """What is called ready is what it is called, and is what was recorded."""
        if not artifact.is_ready:
            return
        template, record = self.newest(artifact.key), self.world.ledger.find(artifact.key)
        assert artifact.owner == OWNER
        assert self.made_for[template.template_id] == artifact.snapshot_hash
        assert isinstance(record, Order)
        told = record.template_ids
        assert not told or template.template_id in told, "a duplicate would be used"

    async def look(self) -> None:
        """Check everything, unless it changes meanwhile."""
        assert not self.stuck()
        before = list(self.world.sandboxer.templates)
        with suppress(SnapStartError):
            shown = await self.world.driver.list()
            if list(self.world.sandboxer.templates) == before and not under_way():
                for artifact in shown:
                    self.check(artifact)
                self.outcomes["looks"] += 1

    # -- what happens ---------------------------------------------------------------------

    async def create(self) -> None:
        """An order, perhaps given up while it is under way."""
        wished = self.rng.choice(HASHES)
        request = self.world.request(self.rng.choice(KEYS), snapshot_hash=wished)
        self._hash_of_pod[request.pod_uid] = wished
        making = asyncio.create_task(self.world.driver.create(request))
        self._making[request.pod_uid] = making
        if self.rng.random() < 0.15:
            await asyncio.sleep(self.rng.choice([0.0, 0.005, 0.02]))
            making.cancel()
        await asyncio.wait({making})
        if making.cancelled():
            self.outcomes["create given up"] += 1
        elif (error := making.exception()) is not None:
            self._note("create", error)
        else:
            self.outcomes["create"] += 1

    async def delete(self) -> None:
        """A removal, of whatever is there."""
        try:
            is_removed = await self.world.driver.delete(self.rng.choice(KEYS))
        except SnapStartError as exc:
            self._note("delete", exc)
        else:
            self.outcomes["delete" if is_removed else "delete of none"] += 1

    def _note(self, what: str, error: BaseException) -> None:
        assert isinstance(error, SnapStartError), error
        assert error.code is not ErrorCode.TEMPLATE_EXISTS, "all of these are ours"
        assert error.code is not ErrorCode.INTERNAL
        self.outcomes[f"{what}: {error.code.value}"] += 1

    async def start_session(self) -> None:
        """As the control plane has one started: when its artifact is ready."""
        key = self.rng.choice(KEYS)
        before = list(self.world.sandboxer.templates)
        with suppress(SnapStartError):
            found = await self.world.driver.inspect(key)
            if found is None or list(self.world.sandboxer.templates) != before:
                return
            if found.is_ready:
                self.check(found)
                self.outcomes["session"] += 1
                uid = f"uid-session-{self.outcomes['session']}"
                self._sessions.append(self.world.sandboxer.restore(key, uid))

    def end_session(self) -> None:
        """One of them."""
        if self._sessions:
            self.world.sandboxer.end(self._sessions.pop(self.rng.randrange(len(self._sessions))))

    def evict(self) -> None:
        """The sandboxer needs the place."""
        idle = [one for one in self.world.sandboxer.templates.values() if one.is_idle]
        if idle:
            self.world.sandboxer.remove(self.rng.choice(idle))
            self.outcomes["evicted"] += 1

    async def restart_sandboxer(self) -> None:
        """Guests that are paused then stay so; their Pods go with the builds that they were."""
        await self.world.node.stop()
        for one in [one for one in self.world.sandboxer.sandboxes.values() if one.is_paused]:
            self.world.sandboxer.end(one)
        self.world.sandboxer.is_recovered = False
        await self.world.node.start()
        await asyncio.sleep(0.01)
        self.world.sandboxer.is_recovered = True
        await self.settle()
        self.outcomes["sandboxer restarted"] += 1

    async def restart_agent(self) -> None:
        """In order, as an operator does."""
        assert await self.world.driver.close(wait_s=20.0) == ""
        self.world.successor()
        await self.settle()
        self.outcomes["agent restarted"] += 1

    async def settle(self) -> None:
        """Whatever goes wrong with asking."""
        while True:
            with suppress(SnapStartError):
                await self.world.access.require_settled()
                return

    async def order(self) -> None:
        """One create or delete, and what goes wrong with it or beside it."""
        if self.rng.random() < 0.5:
            self.world.fail(*[None] * self.rng.randrange(4), self.rng.choice(self._faults))
        if self.rng.random() < 0.01:
            self.world.fail(self.rng.choice(self._slow_faults))
        await (self.create() if self.rng.random() < 0.65 else self.delete())

    async def happen(self) -> None:
        """What others do."""
        dice = self.rng.random()
        if len(self._sessions) > 2 or dice < 0.15:
            self.end_session()
        elif dice < 0.35:
            await self.start_session()
        elif dice < 0.45:
            self.evict()

    async def replace(self) -> None:
        """While nobody waits for an order; one that was given up may be under way."""
        dice = self.rng.random()
        if dice < 0.03:
            await self.restart_sandboxer()
        elif dice < 0.06:
            await self.restart_agent()

    async def run(self) -> None:
        """As many orders as there are, a few at once."""
        left = ORDERS
        while left:
            batch = min(left, self.rng.choice([1, 1, 2, 3]))
            await asyncio.gather(*(self.order() for _ in range(batch)), self.happen())
            await self.look()
            await self.replace()
            left -= batch

    # -- how it ends ----------------------------------------------------------------------

    async def calm(self) -> None:
        """Nothing goes wrong any more; what is under way comes to its end."""
        self._is_calm = True
        self.world.faults.calls.clear()
        await until(lambda: not under_way() and not self._pausing)
        await self.settle()

    async def require_same_view(self) -> None:
        """What the driver shows is what the sandboxer has, of whom it is."""
        shown = await self.world.driver.list()
        there = {one.key for one in self.world.sandboxer.templates.values()}
        assert {one.key for one in shown} == there
        for artifact in shown:
            assert artifact.owner == OWNER, "everything there was ordered"
            assert await self.world.driver.inspect(artifact.key) == artifact
            self.check(artifact)
        absent = set(KEYS) - there
        assert [await self.world.driver.inspect(key) for key in absent] == [None] * len(absent)

    async def heal(self) -> None:
        """Every key is ordered once more, as its task would be until it is done."""
        self.world.ahead += timedelta(minutes=1)  # orders that nothing was heard of are given up
        for key in KEYS:
            request = self.world.request(key, snapshot_hash=HASHES[0])
            self._hash_of_pod[request.pod_uid] = HASHES[0]
            assert (await self.world.driver.create(request)).is_ready

    def end_sessions(self) -> None:
        while self._sessions:
            self.end_session()


@pytest.mark.parametrize("form", list(Form), ids=lambda form: form.name.lower())
@pytest.mark.timeout(180)
async def test_after_500_faulted_orders_driver_and_sandboxer_agree(
    tmp_path: Path, form: Form
) -> None:
    print(f"CHAOS_SEED={SEED}")
    config = Config(max_per_key=3, gc_watermark=8)
    async with kuasar_world(tmp_path, form, config, ImpatientAccess) as world:
        chaos = Chaos(world, random.Random(f"{SEED}-{form}"))
        await chaos.run()
        await chaos.calm()
        print(dict(sorted(chaos.outcomes.items())))
        await chaos.require_same_view()
        assert not world.sandboxer.harmed, "a template was taken from under a sandbox"

        chaos.end_sessions()
        await chaos.heal()
        await chaos.require_same_view()
        assert {one.is_ready for one in await world.driver.list()} == {True}
        assert Counter(one.key for one in world.sandboxer.templates.values()) == dict.fromkeys(
            KEYS, 1
        )

        world.ahead += timedelta(minutes=1)
        for key in KEYS:
            assert await world.driver.delete(key)
        assert not world.sandboxer.templates
        assert world.ledger.all() == {}
        assert not world.is_any_paused(), chaos.stuck()
        assert not under_way()
        assert chaos.outcomes["create"] > ORDERS / 10
        assert chaos.outcomes["delete"] > ORDERS / 50
        assert chaos.outcomes["session"]
