"""Every kind of node is told apart from every other, over real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from agentd.kuasar.admin_socket import AdminSocket
from agentd.kuasar.client import Form
from agentd.kuasar.probe import Probe, Sight, Standing, look_at, probe
from tests.fakes.kuasar.admin_server import AdminServer, Members, Verb
from tests.fakes.kuasar.faults import Fault
from tests.fakes.kuasar.grpc_form import VERSION
from tests.fakes.kuasar.node import KuasarNode

NOBODY_UID = 65534


class FromSandbox(AdminServer):
    """The admin socket of an older sandboxer: two actions. (R)"""

    def verbs(self) -> Mapping[str, Verb]:
        return {"from-sandbox": self._make, "from-image": self._make}

    async def _make(self, _request: Members) -> Members:
        raise AssertionError("a probe makes nothing")


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """Somebody who never answers."""
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))
        one.listen()
        yield one


def leave_dead(path: Path) -> None:
    """As a sandboxer that was killed leaves its socket."""
    with listening(path):
        pass


@contextmanager
def somebody_else() -> Iterator[None]:
    """Act as a user who owns nothing, if we are the one who may everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY_UID)
    try:
        yield
    finally:
        os.seteuid(0)


class Place:
    """Where the sockets of a node are, whoever is there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.admin = root / "admin.sock"
        self.grpc = root / "service.sock"
        self.ttrpc = root / "snapshot-mgmt.sock"

    async def probe(self, deadline_s: float = 10.0) -> Probe:
        return await probe(
            AdminSocket(self.admin), self.grpc, deadline_s=deadline_s, ttrpc_socket=self.ttrpc
        )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
async def json_node(tmp_path: Path) -> AsyncIterator[KuasarNode]:
    async with KuasarNode(tmp_path, Form.JSON) as node:
        yield node


@pytest.fixture
async def grpc_node(tmp_path: Path) -> AsyncIterator[KuasarNode]:
    async with KuasarNode(tmp_path, Form.GRPC) as node:
        yield node


async def test_the_json_form_is_known_by_what_it_misses(
    place: Place, json_node: KuasarNode
) -> None:
    found = await place.probe()
    assert found.standing is Standing.JSON
    assert (found.hint, found.version) == ("", "")
    assert json_node.json.calls == {"template-create": 1}
    assert not json_node.sandboxer.templates


async def test_the_grpc_form_is_known_by_its_plugin(place: Place, grpc_node: KuasarNode) -> None:
    found = await place.probe()
    assert found.standing is Standing.GRPC
    assert (found.hint, found.version) == ("", VERSION)
    assert grpc_node.grpc.calls == {"GetPluginInfo": 1}
    assert not grpc_node.sandboxer.templates


async def test_a_grpc_form_is_not_taken_for_another_without_its_grpc_socket(place: Place) -> None:
    """Its admin socket answers the rest as that of the JSON form does."""
    node = KuasarNode(place.root, Form.GRPC)
    async with node.admin.serving(place.admin):
        assert (await place.probe()).standing is Standing.GRPC_UNREACHABLE
        leave_dead(place.grpc)
        found = await place.probe()
        assert found.standing is Standing.GRPC_UNREACHABLE
        assert "nobody listens" in found.detail
        assert "kuasar.grpc_socket" in found.hint
        place.grpc.unlink()
        with listening(place.grpc):
            found = await place.probe(2)
        assert found.standing is Standing.GRPC_UNREACHABLE
        assert "within 2 s" in found.detail


async def test_a_dead_grpc_socket_of_long_ago_does_not_hide_the_json_form(
    place: Place, json_node: KuasarNode
) -> None:
    leave_dead(place.grpc)
    assert (await place.probe()).standing is Standing.JSON


async def test_a_grpc_form_is_used_without_its_admin_socket_and_says_so(place: Place) -> None:
    node = KuasarNode(place.root, Form.GRPC)
    async with node.grpc.serving(place.grpc):
        found = await place.probe()
    assert found.standing is Standing.GRPC
    assert "kuasar.admin_socket" in found.hint


async def test_an_older_sandboxer_is_named_not_driven(place: Place) -> None:
    older = FromSandbox(KuasarNode(place.root, Form.JSON).sandboxer)
    async with older.serving(place.admin):
        found = await place.probe()
    assert found.standing is Standing.FROM_SANDBOX
    assert "install" in found.hint


async def test_the_oldest_sandboxer_is_known_by_its_socket_alone(place: Place) -> None:
    with listening(place.ttrpc):
        leave_dead(place.admin)
        found = await place.probe()
    assert found.standing is Standing.TTRPC
    assert str(place.ttrpc) in found.detail
    assert (await place.probe()).standing is Standing.DEAD_SOCKET


async def test_absence_is_told_from_death(place: Place) -> None:
    absent = await place.probe()
    assert absent.standing is Standing.ABSENT
    assert f"{place.admin}: there is no such socket" in absent.detail
    leave_dead(place.admin)
    dead = await place.probe()
    assert dead.standing is Standing.DEAD_SOCKET
    assert f"{place.admin}: nobody listens on it any more" in dead.detail
    assert "mount the directory" in dead.hint


@pytest.mark.parametrize("form", Form)
async def test_a_sandboxer_that_ended_leaves_dead_sockets(place: Place, form: Form) -> None:
    async with KuasarNode(place.root, form) as node:
        await node.stop()
        assert (await place.probe()).standing is Standing.DEAD_SOCKET


async def test_what_is_no_socket_is_none(place: Place) -> None:
    """Kubernetes makes a directory of a host path that is not there."""
    place.admin.mkdir()
    place.grpc.write_text("")
    found = await place.probe()
    assert found.standing is Standing.ABSENT
    assert f"{place.admin}: it is no socket" in found.detail


async def test_a_path_too_long_is_no_socket(place: Place) -> None:
    place.admin = place.root / ("x" * 120)
    found = await place.probe()
    assert found.standing is Standing.ABSENT
    assert "too long" in found.detail


@pytest.mark.parametrize("form", Form)
async def test_a_forbidden_socket_is_told_from_an_absent_one(place: Place, form: Form) -> None:
    async with KuasarNode(place.root, form):
        for path in (place.admin, place.grpc):
            with suppress(FileNotFoundError):
                path.chmod(0)
        with somebody_else():
            found = await place.probe()
    assert found.standing is Standing.NOT_PERMITTED
    assert "run as root" in found.hint


@pytest.mark.parametrize(
    "fault",
    ["hang", "drop", "lose", "truncate", b"\x00\xff\n", b"[]\n", b'{"ok": true}\n', b"{}\n"],
    ids=["hang", "drop", "lose", "truncate", "binary", "list", "yes", "empty"],
)
async def test_an_admin_socket_that_answers_no_sense_is_a_fault(
    place: Place, json_node: KuasarNode, fault: Fault
) -> None:
    json_node.json.faults.calls.append(fault)
    found = await place.probe(0.5 if fault == "hang" else 10.0)
    assert found.standing is Standing.FAULT
    assert "log" in found.hint
    assert (await place.probe()).standing is Standing.JSON


@pytest.mark.parametrize(
    "fault", ["hang", "drop", "truncate", b"\xff\xff\xff"], ids=["hang", "drop", "cut", "binary"]
)
async def test_a_grpc_socket_that_answers_no_sense_is_not_the_grpc_form(
    place: Place, grpc_node: KuasarNode, fault: Fault
) -> None:
    grpc_node.grpc.faults.calls.append(fault)
    # Both sockets are asked at once: who is not to be late may stand still for a while.
    found = await place.probe(4.0 if fault == "hang" else 10.0)
    assert found.standing is Standing.GRPC_UNREACHABLE
    assert (await place.probe()).standing is Standing.GRPC


async def test_sockets_named_the_wrong_way_round_are_a_fault(
    place: Place, grpc_node: KuasarNode
) -> None:
    place.admin, place.grpc = place.grpc, place.admin
    found = await place.probe(2.0)
    assert found.standing is Standing.FAULT
    assert "somebody listens" not in found.detail


async def test_a_cancelled_probe_leaves_nothing(place: Place, json_node: KuasarNode) -> None:
    json_node.json.faults.calls.append("hang")
    task = asyncio.create_task(place.probe())
    while not json_node.json.calls:  # noqa: ASYNC110 - what is waited for sets no event
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not [one for one in asyncio.all_tasks() if "kuasar-probe" in one.get_name()]


async def test_looking_at_a_socket_with_a_full_queue_does_not_wait(tmp_path: Path) -> None:
    path = tmp_path / "busy.sock"
    with listening(path) as server:
        server.listen(0)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(4)]
        try:
            for one in waiting:
                one.setblocking(False)
                one.connect_ex(str(path))
            assert look_at(path).sight is Sight.LISTENS
        finally:
            for one in waiting:
                one.close()


async def test_a_socket_of_another_kind_is_named(tmp_path: Path) -> None:
    path = tmp_path / "datagrams.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind(str(path))
        seen = look_at(path)
    assert seen.sight is Sight.NONSENSE
    assert "rotocol" in seen.said
