"""Every call leaves one line, which tells no secret."""

from __future__ import annotations

import asyncio
import json

from agentd.errors import ErrorCode, PeerError
from tests.adapters.proxy.world import (
    ADDRESS,
    CREATE,
    LIST,
    OWNER,
    SANDBOX,
    TOKEN,
    delete,
    post,
    proxy_world,
)

WRONG = "wr0ng-" + "a" * 32


async def test_defect_97_a_call_is_one_line_that_says_who_what_and_how_it_ended() -> None:
    async with proxy_world() as world:
        made = await world.caller.ask(CREATE)
        (line,) = world.written.calls
        assert line.pop("elapsed_ms") >= 0
        assert line.pop("timestamp").endswith("Z")
        assert line == {
            "event": "proxy.call",
            "level": "info",
            "caller": line["caller"],
            "subject": "",
            "action": "create-template",
            "key": "python-ready-1",
            "template_id": made.json["template_id"],
            "sandbox_id": SANDBOX,
            "status": 200,
            "result": "ok",
        }
        assert line["caller"].startswith("127.")


async def test_every_call_is_one_line_whatever_becomes_of_it() -> None:
    async with proxy_world() as world:
        await world.caller.ask(LIST)
        await world.caller.ask(LIST, token=WRONG)
        await world.caller.ask({"action": "pool-gc", "kind": "warm_fork"})
        await world.caller.ask({"action": "list-templates", "more": 1})
        await world.caller.send(b"nonsense\r\n\r\n")
        await world.caller.ask(delete("f" * 32))
        world.driver.error = PeerError(ErrorCode.PROVIDER_FAILED, "it broke")
        await world.caller.ask(LIST)
        assert [(one["action"], one["status"], one["level"]) for one in world.written.calls] == [
            ("list-templates", 200, "info"),
            ("", 401, "info"),
            ("", 403, "info"),
            ("", 400, "info"),
            ("", 400, "info"),
            ("delete-template", 200, "info"),
            ("list-templates", 502, "warning"),
        ]


async def test_defect_97_neither_token_nor_body_is_ever_written() -> None:
    """Not at debug, not by the libraries, not when they are what a failure is about."""
    asyncio.get_running_loop().set_debug(True)
    secret = "b0dy-secret"
    async with proxy_world() as world:
        ask, send = world.caller.ask, world.caller.send
        await ask({**CREATE, "owner": {**OWNER, "runtime_name": secret}})
        await ask({**CREATE, "owner": {**OWNER, "runtime_name": secret + "\n"}})
        await ask({**CREATE, secret: 1})
        await ask({**CREATE, "key": f"/{secret}"})
        await ask({**CREATE, "action": secret})
        await ask(LIST, token=WRONG)
        await send(post(f'{{"a": {secret}'.encode()))
        await send(post(secret.encode(), length=10_000), eof=True)
        await send(post(secret.encode(), "Transfer-Encoding: chunked"))
        await send(post(b"", "X-Bad: \x00"))
        await send(post(b"", "X Bad: a"))
        await send(post(b"", f"X-Long: {'x' * 20_000}"))
        await send(f"GET /{TOKEN} HTTP/9.9\r\n\r\n".encode())
        await send(f"{secret} {TOKEN}\r\n\r\n".encode())
        await send(f"POST /x HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\x01\r\n\r\n".encode())
        world.driver.error = RuntimeError(f"{TOKEN} {secret}")
        await ask(LIST)
        world.driver.error = ValueError(json.dumps({"token": TOKEN, "body": secret}))
        await ask(CREATE)
        assert len(world.written.calls) == 17
        for hidden in (TOKEN, WRONG, secret):
            assert hidden not in world.written.text
        assert ADDRESS[:4] in world.written.text


async def test_a_caller_learns_nothing_of_the_token_either() -> None:
    async with proxy_world() as world:
        for data in (
            f"POST /x HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\x01\r\n\r\n".encode(),
            f"{TOKEN}\r\n\r\n".encode(),
        ):
            answer = await world.caller.send(data)
            assert (answer.status, answer.json["error"]) == (400, "bad_http")
            assert TOKEN.encode() not in answer.body
