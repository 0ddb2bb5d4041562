"""Connections are accepted as long as there is room, whatever accept(2) says."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from agentd.proxy.accepting import Acceptor
from agentd.proxy.connection import Connection
from agentd.proxy.limits import Deadlines
from agentd.proxy.replies import Done, answer
from tests.adapters.proxy.world import ADDRESS, Caller, all_written, connections, until

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"


class Failing(socket.socket):
    """A listener; `errors` are those of the next calls."""

    def __init__(self, *errors: int) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.bind((ADDRESS, 0))
        self.listen()
        self.errors = deque(errors)
        self.calls = 0

    def accept(self) -> tuple[socket.socket, Any]:
        self.calls += 1
        if self.errors:
            number = self.errors.popleft()
            raise OSError(number, errno.errorcode[number])
        return super().accept()


async def fine(_: web.BaseRequest) -> web.StreamResponse:
    return answer(Done())


@contextlib.asynccontextmanager
async def accepting(listener: Failing) -> AsyncIterator[Caller]:
    loop = asyncio.get_running_loop()
    server = web.Server(fine)
    acceptor = Acceptor(
        listener,
        lambda: Connection(server, loop, Deadlines(), lambda _: answer(Done())),
        None,
        5.0,
    )
    try:
        yield Caller(listener.getsockname()[1])
    finally:
        await acceptor.close()
        await acceptor.close()
        await server.shutdown(1.0)


async def test_a_peer_that_left_before_it_was_accepted_is_passed_over() -> None:
    async with accepting(Failing(errno.ECONNABORTED)) as caller:
        assert (await caller.send(HEALTH)).status == 200


async def test_without_descriptors_it_waits_instead_of_asking_for_ever() -> None:
    listener = Failing(errno.EMFILE)
    with all_written() as written:
        async with accepting(listener) as caller:
            assert (await caller.send(HEALTH)).status == 200
        assert "proxy.accept.failed" in written.text
        # The one that failed, the one that went well, the one that found nobody.
        assert listener.calls == 3


async def test_closing_while_it_waits_leaves_nothing() -> None:
    listener = Failing(errno.EMFILE)
    with all_written() as written:
        async with accepting(listener) as caller:
            late = asyncio.create_task(caller.send(HEALTH))
            await until(lambda: written.text)
        assert (await late).status == 0
    assert listener.fileno() == -1


async def test_peers_that_reset_at_once_cost_nobody_a_descriptor() -> None:
    """An event loop that closed a number twice would close somebody else's, or abort."""
    async with accepting(Failing()) as caller:
        for _ in range(100):
            sock = socket.create_connection((ADDRESS, caller.port))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.send(HEALTH[:5])
            sock.close()
            others = [os.dup(1) for _ in range(3)]
            await asyncio.sleep(0)
            for fd in others:
                os.close(fd)
        await until(lambda: not connections())
        assert (await caller.send(HEALTH)).status == 200
