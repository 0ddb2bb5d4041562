"""One line for another, whatever the other side sends instead."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agentd.errors import ConfigError, ErrorCode, PeerError, SnapStartError, TransientError
from agentd.kuasar.admin_socket import AdminSocket
from tests.fakes.kuasar.json_form import JsonForm
from tests.fakes.kuasar.listener import listening
from tests.fakes.kuasar.reduced_admin import ReducedAdmin
from tests.fakes.kuasar.sandboxer import Sandboxer


class Node:
    """A socket with a sandboxer of the JSON form on it."""

    def __init__(self, path: Path) -> None:
        self.form = JsonForm(Sandboxer())
        self.path = path
        self.socket = AdminSocket(path, deadline_s=5.0)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(tmp_path / "admin.sock")
    async with made.form.serving(made.path):
        yield made


@asynccontextmanager
async def flooding(path: Path, chunk: bytes) -> AsyncIterator[None]:
    """Sends without end to whoever connects."""

    async def flood(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(chunk)
            await writer.drain()

    async with listening(path, flood):
        yield


async def ask(socket: AdminSocket) -> dict[str, object]:
    return await socket.call("listing", "template-list")


async def test_a_reply_is_its_members(node: Node) -> None:
    assert await ask(node.socket) == {"ok": True, "templates": []}


async def test_what_is_none_is_not_sent(node: Node) -> None:
    with pytest.raises(SnapStartError, match="missing sandbox_id"):
        await node.socket.call("making", "template-create", sandbox_id=None)


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"\n",
        b"nonsense\n",
        b"\xff\xfe\n",
        b"\x00" * 1000 + b"\n",
        b"[]\n",
        b"null\n",
        b"{}\n",
        b'{"ok": 1}\n',
        b'{"ok": "true"}\n',
        b'{"ok": false}\n',
        b'{"ok": false, "error": 7}\n',
        b'{"ok": false, "error": null}\n',
        b'{"ok": true, "templates": []',
        b"x" * 100_000,
        b"[" * 100_000 + b"\n",
        b'{"ok":' * 100_000 + b"\n",
    ],
    ids=lambda reply: f"{len(reply)} bytes of {reply[:20]!r}",
)
async def test_an_answer_that_is_none_is_an_error(node: Node, reply: bytes) -> None:
    node.form.faults.calls.append(reply)
    with pytest.raises(PeerError, match="listing: the Kuasar sandboxer sent") as caught:
        await ask(node.socket)
    assert caught.value.code is ErrorCode.PROVIDER_PROTOCOL
    assert len(str(caught.value)) < 1000
    assert await ask(node.socket)


@pytest.mark.parametrize("reply", [b"", b'{"ok": tr'], ids=["nothing", "half"])
async def test_an_end_without_a_reply_is_said_to_be_no_answer(node: Node, reply: bytes) -> None:
    node.form.faults.calls.append(reply)
    with pytest.raises(PeerError, match="the end of the connection") as caught:
        await ask(node.socket)
    assert "look again before repeating" in caught.value.hint


async def test_words_of_any_length_are_cut(node: Node) -> None:
    node.form.faults.calls.append(b'{"ok": false, "error": "' + b"x" * 1_000_000 + b'"}\n')
    with pytest.raises(PeerError) as caught:
        await ask(node.socket)
    assert len(str(caught.value)) < 1000


async def test_a_long_answer_is_read_whole(node: Node) -> None:
    node.form.faults.calls.append(b'{"ok": true, "pad": "' + b"x" * 8_000_000 + b'"}\n')
    assert len(str((await ask(node.socket))["pad"])) == 8_000_000


async def test_an_answer_without_end_is_cut_off(tmp_path: Path) -> None:
    async with flooding(tmp_path / "admin.sock", b"x" * 1_000_000):
        with pytest.raises(PeerError, match="more than 16777216 bytes"):
            await ask(AdminSocket(tmp_path / "admin.sock"))


async def test_one_that_drips_ends_at_the_deadline(tmp_path: Path) -> None:
    """The deadline is for the whole call, not for each read."""

    async def drip(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with listening(tmp_path / "admin.sock", drip):
        with pytest.raises(TransientError, match=r"no reply on .* within 0\.2 s") as caught:
            await AdminSocket(tmp_path / "admin.sock", deadline_s=0.2).call("asking", "a")
    assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED


async def test_one_that_does_not_read_ends_at_the_deadline(tmp_path: Path) -> None:
    async def ignore(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with listening(tmp_path / "admin.sock", ignore):
        with pytest.raises(TransientError) as caught:
            await AdminSocket(tmp_path / "admin.sock", deadline_s=0.2).call(
                "asking", "a", pad="x" * 50_000_000
            )
    assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED


async def test_a_call_has_a_deadline_of_its_own(node: Node) -> None:
    node.form.faults.calls.append("hang")
    with pytest.raises(TransientError, match=r"within 0\.05 s"):
        await node.socket.call("listing", "template-list", deadline_s=0.05)


async def test_another_form_is_said_to_be_one(node: Node) -> None:
    with pytest.raises(ConfigError, match="unknown template action: template-make") as caught:
        await node.socket.call("making", "template-make")
    assert caught.value.code is ErrorCode.PROVIDER_UNABLE


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ("template-create", "unknown template action: template-create"),
        ("sandbox-list", "unknown action: sandbox-list"),
        ("continuation-list", "unknown action: continuation-list"),
        ("nonsense", "unknown action: nonsense"),
    ],
)
async def test_the_reduced_socket_refuses_what_it_no_longer_has(
    tmp_path: Path, action: str, said: str
) -> None:
    async with ReducedAdmin(Sandboxer()).serving(tmp_path / "admin.sock"):
        with pytest.raises(ConfigError, match=f"said '{said}'") as caught:
            await AdminSocket(tmp_path / "admin.sock").call("asking", action)
    assert caught.value.code is ErrorCode.PROVIDER_UNABLE


async def test_the_reduced_socket_removes_bare_machines_alone(tmp_path: Path) -> None:
    sandboxer = Sandboxer()
    bare = sandboxer.add_environment()
    fork = await sandboxer.create_fork(sandboxer.run("uid-1"), "key")
    socket = AdminSocket(tmp_path / "admin.sock")
    async with ReducedAdmin(sandboxer).serving(tmp_path / "admin.sock"):
        with pytest.raises(SnapStartError, match="has kind WarmFork, not Environment"):
            await socket.call("removing", "pool-gc", template_id=fork.template_id)
        await socket.call("removing", "pool-gc", template_id=bare.template_id, kind="ignored")
    assert list(sandboxer.templates) == [fork.template_id]


# -- the socket itself ----------------------------------------------------------------------------


async def test_absence_a_dead_socket_and_a_replaced_one_are_told_apart(tmp_path: Path) -> None:
    node = Node(tmp_path / "admin.sock")
    with pytest.raises(TransientError, match="there is no such socket") as caught:
        await ask(node.socket)
    assert caught.value.code is ErrorCode.PROVIDER_UNREACHABLE
    assert "kuasar.admin_socket" in caught.value.hint
    async with node.form.serving(node.path):
        assert await ask(node.socket)
    with pytest.raises(TransientError, match="nobody listens on it any more"):
        await ask(node.socket)
    async with node.form.serving(node.path):
        assert await ask(node.socket)


async def test_a_file_that_is_no_socket_is_not_connected_to(tmp_path: Path) -> None:
    (tmp_path / "admin.sock").write_text("no socket")
    with pytest.raises(TransientError) as caught:
        await ask(AdminSocket(tmp_path / "admin.sock"))
    assert caught.value.code is ErrorCode.PROVIDER_UNREACHABLE


@pytest.mark.skipif(os.geteuid() != 0, reason="changing the user takes root")
async def test_a_forbidden_socket_names_the_remedy() -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o711)
        node = Node(Path(directory, "admin.sock"))
        async with node.form.serving(node.path):
            os.seteuid(65534)
            try:
                with pytest.raises(ConfigError, match="run agentd as root") as caught:
                    await ask(node.socket)
            finally:
                os.seteuid(0)
    assert caught.value.code is ErrorCode.PERMISSION_DENIED


async def test_a_path_that_would_be_cut_is_refused(tmp_path: Path) -> None:
    """uvloop cuts it at 107 bytes, and would speak with whoever has that name."""
    path = tmp_path / ("x" * (107 - len(str(tmp_path)) - 1))
    async with JsonForm(Sandboxer()).serving(path):
        assert await ask(AdminSocket(path))
        with pytest.raises(ConfigError, match="108 bytes") as caught:
            await ask(AdminSocket(Path(f"{path}y")))
    assert caught.value.code is ErrorCode.CONFIG_INVALID
