"""The way to a sandboxer that is replaced, dies, changes its form, or has just begun."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from itertools import product
from pathlib import Path

import pytest

from agentd.errors import (
    ConfigError,
    ErrorCode,
    PeerError,
    SnapStartError,
    TransientError,
    UsageError,
)
from agentd.kuasar.access import SandboxerAccess, unusable
from agentd.kuasar.client import Form, KuasarAccess, PodRef
from agentd.kuasar.failures import kuasar_error
from agentd.kuasar.probe import Probe, Standing
from agentd.kuasar.settling import Look, has_settled
from agentd.kuasar.watched import may_be_another
from agentd.settings import Kuasar
from controlplane.api.types import SnapshotMode
from tests.fakes.kuasar.faults import Abort, Fault
from tests.fakes.kuasar.node import KuasarNode

KEY = "python-0123456789-fork-g1-r1"
SETTLE_S = 5.0


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Place:
    """A node with the way to its sandboxer, and what was told of it."""

    def __init__(self, root: Path, form: Form) -> None:
        self.node = KuasarNode(root, form)
        self.told: list[Standing] = []
        self.clock = Clock()
        self.listen_path = root / "listen.sock"
        settings = Kuasar(
            admin_socket=self.node.admin_path,
            grpc_socket=self.node.grpc_path,
            listen_socket=self.listen_path,
            cri_socket=self.node.cri_path,
            create_s=20.0,
        )
        self.access = SandboxerAccess(
            settings, self._tell, self.clock, probe_s=10.0, settle_s=SETTLE_S
        )

    def _tell(self, found: Probe) -> None:
        self.told.append(found.standing)

    @property
    def standing(self) -> Standing:
        return Standing(self.node.form.value)

    def probes(self) -> int:
        """How often the sandboxer, of whichever form, was probed."""
        return self.node.calls["template-create"]

    def lists(self) -> int:
        """How often it was asked for its sandboxes."""
        return self.node.calls["sandbox-list"] + self.node.calls["ListSandboxes"]

    def fault_the_next(self, fault: Fault) -> None:
        """Of the calls that drive it, in the form it has."""
        self.node.faults.calls.append(fault)

    async def settle(self) -> None:
        with suppress(TransientError):
            await self.access.require_settled()
        self.clock.now_s += SETTLE_S
        await self.access.require_settled()


@pytest.fixture(params=list(Form), ids=["json", "grpc"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path, request.param)
    async with made.node:
        made.node.sandboxer.run("uid-1")
        yield made


async def refusal(attempt: Callable[[], Awaitable[object]]) -> SnapStartError:
    with pytest.raises(SnapStartError) as caught:
        await attempt()
    return caught.value


# -- the client -----------------------------------------------------------------------------------


async def test_whoever_asks_gets_a_client_of_the_form_that_is_there(place: Place) -> None:
    access: KuasarAccess = place.access
    client = await access.client()
    assert client.form is place.node.form
    pod = PodRef("uid-1", "team", "pod")
    await client.create(pod, KEY, SnapshotMode.FORK)
    (found,) = await client.find(KEY)
    assert await client.list() == [found]
    assert (await client.pool()).total == 1
    assert await client.modes() == {SnapshotMode.FORK}
    assert [one.status for one in await client.sandboxes()] == ["running"]
    await client.remove(found)
    assert await client.list() == []
    assert place.told == [place.standing]


async def test_one_probe_serves_all_who_ask_meanwhile_and_later(place: Place) -> None:
    clients = await asyncio.gather(*(place.access.client() for _ in range(20)))
    assert place.probes() == 1
    assert all(one is clients[0] for one in clients)
    assert await place.access.client() is clients[0]
    assert place.probes() == 1


async def test_a_replaced_sandboxer_is_probed_again(place: Place) -> None:
    first = await place.access.client()
    await place.node.restart()
    assert await place.access.client() is not first
    assert place.probes() == 2
    assert place.told == [place.standing]


async def test_one_of_another_form_is_spoken_with_in_its_own(place: Place) -> None:
    """Of the gRPC form there remains a dead socket."""
    await place.access.client()
    before = place.standing
    await place.node.restart(Form.GRPC if place.node.form is Form.JSON else Form.JSON)
    client = await place.access.client()
    assert client.form is place.node.form
    assert await client.list() == []
    assert place.told == [before, place.standing]
    assert before is not place.standing


async def test_a_failure_is_never_remembered(tmp_path: Path) -> None:
    place = Place(tmp_path, Form.JSON)
    for _ in range(2):
        exc = await refusal(place.access.client)
        assert isinstance(exc, TransientError)
        assert exc.code is ErrorCode.PROVIDER_UNREACHABLE
        assert "absent" in exc.message
        assert str(place.node.admin_path) in exc.message
        assert "start the sandboxer" in exc.hint
    async with place.node:
        assert (await place.access.client()).form is Form.JSON
    assert place.told == [Standing.ABSENT, Standing.JSON]


async def test_one_that_died_is_noticed_by_the_first_call_that_fails(place: Place) -> None:
    """Its socket files stay as they were."""
    client = await place.access.client()
    await place.node.stop()
    assert (await refusal(client.list)).code is ErrorCode.PROVIDER_UNREACHABLE
    exc = await refusal(place.access.client)
    assert "dead-socket" in exc.message
    assert isinstance(exc, TransientError)
    assert place.told == [place.standing, Standing.DEAD_SOCKET]


@pytest.mark.parametrize(
    "fault",
    [Abort("unknown template action: template-list"), "drop", b"\xff\n"],
    ids=["unknown", "drop", "binary"],
)
async def test_an_answer_that_fits_another_form_makes_the_next_probe(
    place: Place, fault: Fault
) -> None:
    client = await place.access.client()
    place.fault_the_next(fault)
    await refusal(client.list)
    assert place.probes() == 1
    assert await (await place.access.client()).list() == []
    assert place.probes() == 2


async def test_an_ordinary_refusal_makes_none(place: Place) -> None:
    client = await place.access.client()
    for words in ("template pool not configured", "disk copy failed", "already exists"):
        place.fault_the_next(Abort(words))
        await refusal(client.list)
    assert await place.access.client() is client
    assert place.probes() == 1


@pytest.mark.parametrize(
    ("exc", "is_so"),
    [
        (kuasar_error("x", "unknown action: pool-status"), True),
        (kuasar_error("x", "unknown sandbox action: sandbox-list"), True),
        (kuasar_error("x", "continuation store not configured"), False),
        (TransientError(ErrorCode.PROVIDER_UNREACHABLE, "gone"), True),
        (TransientError(ErrorCode.DEADLINE_EXCEEDED, "slow"), False),
        (PeerError(ErrorCode.PROVIDER_PROTOCOL, "what?"), True),
        (UsageError(ErrorCode.TEMPLATE_IN_USE, "unknown action"), False),
    ],
    ids=["action", "verb", "no-store", "gone", "slow", "nonsense", "in-use"],
)
def test_which_errors_fit_another_sandboxer(exc: SnapStartError, is_so: bool) -> None:
    assert may_be_another(exc) is is_so


@pytest.mark.parametrize(
    ("standing", "kind", "code"),
    [
        (Standing.ABSENT, TransientError, ErrorCode.PROVIDER_UNREACHABLE),
        (Standing.DEAD_SOCKET, TransientError, ErrorCode.PROVIDER_UNREACHABLE),
        (Standing.GRPC_UNREACHABLE, TransientError, ErrorCode.PROVIDER_UNREACHABLE),
        (Standing.NOT_PERMITTED, ConfigError, ErrorCode.PERMISSION_DENIED),
        (Standing.FROM_SANDBOX, ConfigError, ErrorCode.PROVIDER_UNABLE),
        (Standing.TTRPC, ConfigError, ErrorCode.PROVIDER_UNABLE),
        (Standing.FAULT, PeerError, ErrorCode.PROVIDER_PROTOCOL),
    ],
    ids=lambda one: one.value if isinstance(one, Standing) else "",
)
def test_each_standing_has_its_error(
    standing: Standing, kind: type[SnapStartError], code: ErrorCode
) -> None:
    exc = unusable(Probe(standing, "what was seen", "do this", ""))
    assert type(exc) is kind
    assert exc.code is code
    assert standing.value in exc.message
    assert "what was seen" in exc.message
    assert exc.hint == "do this"


# -- cancellation ---------------------------------------------------------------------------------


def is_probing() -> bool:
    return any("kuasar-probe" in one.get_name() for one in asyncio.all_tasks())


async def hanging(place: Place, callers: int) -> list[asyncio.Task[object]]:
    """Several who wait for a probe that gets no answer yet."""
    place.node.json.faults.calls.append("hang")
    tasks: list[asyncio.Task[object]] = [
        asyncio.create_task(place.access.client()) for _ in range(callers)
    ]
    while not place.node.json.calls:  # noqa: ASYNC110 - what is waited for sets no event
        await asyncio.sleep(0)
    return tasks


async def test_one_who_leaves_does_not_end_the_probe_of_others(tmp_path: Path) -> None:
    place = Place(tmp_path, Form.JSON)
    async with place.node:
        first, second = await hanging(place, 2)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert is_probing()
        await place.node.restart()  # which ends the call that hangs
        exc = await refusal(lambda: second)
        assert exc.code is ErrorCode.PROVIDER_PROTOCOL
        assert not is_probing()
        assert (await place.access.client()).form is Form.JSON


async def test_the_last_who_leaves_ends_the_probe(tmp_path: Path) -> None:
    place = Place(tmp_path, Form.JSON)
    async with place.node:
        tasks = await hanging(place, 3)
        for task in tasks:
            task.cancel()
        for task in tasks:
            with pytest.raises(asyncio.CancelledError):
                await task
        assert not is_probing()
        assert place.told == []
        assert (await place.access.client()).form is Form.JSON


# -- settling -------------------------------------------------------------------------------------


async def test_one_that_lists_the_same_twice_has_settled(place: Place) -> None:
    exc = await refusal(place.access.require_settled)
    assert isinstance(exc, TransientError)
    assert exc.code is ErrorCode.PROVIDER_UNREACHABLE
    assert exc.delay_s == SETTLE_S
    place.clock.now_s += SETTLE_S
    await place.access.require_settled()
    asked = place.lists()
    assert asked == 2
    await place.access.require_settled()
    assert place.lists() == asked


async def test_one_that_serves_its_container_runtime_has_settled(place: Place) -> None:
    place.node.sandboxer.is_recovered = False
    with pytest.raises(TransientError):
        await place.access.require_settled()
    async with await asyncio.start_unix_server(
        lambda _r, writer: writer.close(), place.listen_path
    ):
        await place.access.require_settled()
    await place.access.require_settled()
    assert place.lists() == 1


async def test_a_dead_socket_for_the_runtime_proves_nothing(place: Place) -> None:
    server = await asyncio.start_unix_server(lambda _r, _w: None, place.listen_path)
    server.close()
    await server.wait_closed()
    place.listen_path.touch()
    with pytest.raises(TransientError):
        await place.access.require_settled()


async def test_looks_too_close_together_prove_nothing(place: Place) -> None:
    for _ in range(4):
        await refusal(place.access.require_settled)
        place.clock.now_s += SETTLE_S / 4
    await place.access.require_settled()


async def test_one_that_is_replaced_has_to_settle_again(place: Place) -> None:
    await place.settle()
    await place.node.restart()
    await refusal(place.access.require_settled)
    place.clock.now_s += SETTLE_S
    exc = await refusal(place.access.require_settled)
    assert "0 sandboxes" in exc.message, "it lists none while it recovers"
    place.node.sandboxer.is_recovered = True
    await refusal(place.access.require_settled)
    place.clock.now_s += SETTLE_S
    await place.access.require_settled()


async def test_a_restart_between_two_looks_begins_anew(place: Place) -> None:
    await refusal(place.access.require_settled)
    place.clock.now_s += SETTLE_S
    await place.node.restart()
    place.node.sandboxer.is_recovered = True
    await refusal(place.access.require_settled)


async def test_sandboxes_are_not_asked_for_while_a_snapshot_is_made(place: Place) -> None:
    """Nor are they waited for: a snapshot takes minutes."""
    await place.access.client()
    async with place.access.turn:
        asking = asyncio.create_task(place.access.require_settled())
        for _ in range(20):
            await asyncio.sleep(0)
        assert asking.done()
        exc = await refusal(lambda: asking)
    assert "a snapshot is being made" in exc.message
    assert isinstance(exc, TransientError)
    assert place.lists() == 0


async def test_a_turn_that_somebody_waits_for_is_not_taken_from_him(place: Place) -> None:
    await place.access.client()
    turn = place.access.turn
    await turn.acquire()
    waiting = asyncio.create_task(turn.acquire())
    await asyncio.sleep(0)
    turn.release()
    exc = await refusal(place.access.require_settled)
    assert "a snapshot is being made" in exc.message
    assert await waiting
    turn.release()
    assert place.lists() == 0


async def test_a_look_that_fails_gives_the_turn_back(place: Place) -> None:
    await place.access.client()
    place.fault_the_next("drop")
    exc = await refusal(place.access.require_settled)
    assert "a snapshot is being made" not in exc.message
    assert not place.access.turn.locked()
    await place.settle()


async def test_a_cancelled_look_gives_the_turn_back(place: Place) -> None:
    await place.access.client()
    place.fault_the_next("hang")
    task = asyncio.create_task(place.access.require_settled())
    while not place.lists():  # noqa: ASYNC110 - what is waited for sets no event
        await asyncio.sleep(0)
    assert place.access.turn.locked()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not place.access.turn.locked()


async def test_without_a_sandboxer_it_says_so(tmp_path: Path) -> None:
    place = Place(tmp_path, Form.JSON)
    assert "absent" in (await refusal(place.access.require_settled)).message


def look(
    at_s: float, ids: str, identity: int = 1, since_s: float = 0.0, took_s: float = 0.0
) -> Look:
    return Look(((1, identity, 1), None), frozenset(ids), at_s, at_s + took_s, since_s)


@pytest.mark.parametrize(
    ("before", "now", "is_so"),
    [
        (None, look(9, "ab"), False),
        (look(0, "ab"), look(5, "ab"), True),
        (look(0, "ab"), look(4.9, "ab"), False),
        (look(0, "ab", took_s=3), look(5, "ab"), False),
        (look(0, "a"), look(5, "ab"), False),
        (look(0, "ab"), look(5, "a"), False),
        (look(0, "ab", identity=2), look(500, "ab"), False),
        (look(0, ""), look(5, ""), False),
        (look(0, ""), look(60, ""), True),
        (look(100, "a", since_s=0), look(119, "ab"), False),
        (look(100, "a", since_s=0), look(120, "ab"), True),
    ],
    ids=[
        "first", "same", "too-soon", "slow-first", "grown", "shrunk", "another", "empty",
        "long-empty", "changing", "long-changing",
    ],
)  # fmt: skip
def test_what_counts_as_settled(before: Look | None, now: Look, is_so: bool) -> None:
    assert has_settled(before, now, SETTLE_S) is is_so


async def test_a_busy_node_settles_all_the_same(place: Place) -> None:
    """Where Pods come more often than every few seconds, no two lists are alike."""
    for number in range(24):
        exc = await refusal(place.access.require_settled)
        assert f"{number + 1} sandboxes" in exc.message
        place.node.sandboxer.run(f"uid-{number + 2}")
        place.clock.now_s += SETTLE_S
    await place.access.require_settled()


def test_forms_and_standings_have_the_same_names() -> None:
    assert [one.value for one, form in product(Standing, Form) if one.form is form] == list(Form)
