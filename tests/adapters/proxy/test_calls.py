"""What callers ask for over HTTP, and what they get."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentd.errors import ErrorCode, PeerError, TransientError, UsageError
from agentd.proxy.limits import CREATES_MAX
from agentd.proxy.requests import BODY_MAX_BYTES
from agentd.settings import Proxy
from tests.adapters.proxy.world import (
    CREATE,
    LIST,
    OWNER,
    SANDBOX,
    TOKEN,
    Answer,
    connections,
    deadlines,
    delete,
    post,
    proxy_world,
    until,
    write_token,
)


def refused(answer: Answer) -> tuple[int, str]:
    assert answer.json["ok"] is False
    assert set(answer.json) == {"ok", "error", "message"}
    return answer.status, answer.json["error"]


# -- paths, methods -------------------------------------------------------------------------------


async def test_health_needs_no_token_and_is_not_audited() -> None:
    async with proxy_world() as world:
        answer = await world.caller.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (answer.status, answer.json) == (200, {"ok": True})
        assert world.written.calls == []


@pytest.mark.parametrize(
    ("line", "status", "allow"),
    [
        ("GET / HTTP/1.1", 404, None),
        ("POST /admin HTTP/1.1", 404, None),
        ("POST /kuasar-admin/ HTTP/1.1", 404, None),
        ("POST /kuasar-admin?x=1 HTTP/1.1", 404, None),
        ("POST /%6buasar-admin HTTP/1.1", 404, None),
        ("POST /x/../kuasar-admin HTTP/1.1", 404, None),
        ("POST http://elsewhere/kuasar-admin HTTP/1.1", 404, None),
        ("GET /kuasar-admin HTTP/1.1", 405, "POST"),
        ("DELETE /kuasar-admin HTTP/1.1", 405, "POST"),
        ("OPTIONS /kuasar-admin HTTP/1.1", 405, "POST"),
        ("POST /healthz HTTP/1.1", 405, "GET"),
        ("HEAD /healthz HTTP/1.1", 405, "GET"),
    ],
)
async def test_there_is_one_path_with_one_method(line: str, status: int, allow: str | None) -> None:
    request = f"{line}\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
    async with proxy_world() as world:
        answer = await world.caller.send(request)
        assert (answer.status, answer.headers.get("allow")) == (status, allow)
        assert world.driver.calls == 0
        assert [one["status"] for one in world.written.calls] == [status]


# -- the token ------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN + "f"])
async def test_a_wrong_token_lets_nobody_in(token: str) -> None:
    async with proxy_world() as world:
        answer = await world.caller.ask(LIST, token=token)
        assert refused(answer) == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert world.driver.calls == 0


async def test_a_body_is_not_even_read_of_who_has_no_token() -> None:
    async with proxy_world() as world:
        answer = await world.caller.send(post(b"", token="wrong", length=BODY_MAX_BYTES))
        assert refused(answer) == (401, "unauthorized")


async def test_a_token_that_is_replaced_counts_at_once(tmp_path: Path) -> None:
    file = write_token(tmp_path / "token", "first\n")
    async with proxy_world(settings=Proxy(enabled=True, token_file=file)) as world:
        assert (await world.caller.ask(LIST, token="first")).status == 200
        file.write_text("second\n")
        assert (await world.caller.ask(LIST, token="first")).status == 401
        assert (await world.caller.ask(LIST, token="second")).status == 200


@pytest.mark.parametrize("is_empty", [True, False], ids=["empty", "gone"])
async def test_without_a_token_nobody_is_let_in(tmp_path: Path, is_empty: bool) -> None:
    file = write_token(tmp_path / "token", "first")
    async with proxy_world(settings=Proxy(enabled=True, token_file=file)) as world:
        if is_empty:
            file.write_text("")
        else:
            file.unlink()
        for token in ("first", ""):
            answer = await world.caller.ask(LIST, token=token)
            assert refused(answer) == (500, "misconfigured")
            assert str(file) not in answer.json["message"]
        assert world.driver.calls == 0
        assert str(file) in world.written.calls[0]["detail"]


# -- the three actions ----------------------------------------------------------------------------


async def test_a_template_is_made_told_and_deleted() -> None:
    async with proxy_world() as world:
        made = await world.caller.ask(CREATE)
        template_id = made.json["template_id"]
        assert made.status == 200
        assert made.json == {
            "ok": True,
            "template_id": template_id,
            "key": "python-ready-1",
            "snapshot_type": "warm_fork",
        }
        told = await world.caller.ask(LIST)
        assert told.json == {
            "ok": True,
            "templates": [
                {
                    "template_id": template_id,
                    "key": "python-ready-1",
                    "snapshot_type": "warm_fork",
                    "created_at": "2026-01-02T03:04:05Z",
                    "lease_count": 0,
                    "owner": OWNER,
                }
            ],
        }
        assert (await world.caller.ask(delete(template_id))).json == {"ok": True}
        assert (await world.caller.ask(LIST)).json["templates"] == []
        assert (await world.caller.ask(delete(template_id))).json == {"ok": True}


async def test_the_driver_is_given_the_pod_and_the_owner() -> None:
    async with proxy_world() as world:
        await world.caller.ask(CREATE)
        (request,) = world.driver.created
        assert (request.pod_uid, request.pod_namespace) == ("pod-uid", "team")
        assert request.owner.cluster == "snapstart/0f5b-cluster"
        assert (request.owner.namespace, request.owner.snapshot_name) == ("team", "python-fast")
        assert request.owner.snapshot_uid == "0d0c1e3e-77a5"


async def test_a_create_that_is_repeated_is_the_same_template_even_without_its_pod() -> None:
    async with proxy_world() as world:
        first = await world.caller.ask(CREATE)
        again = await world.caller.ask({**CREATE, "action": "template-create"})
        assert again.json == first.json
        assert len(world.driver.created) == 1


async def test_defect_95_a_sandbox_is_named_by_the_runtimes_id_alone() -> None:
    async with proxy_world() as world:
        answer = await world.caller.ask({**CREATE, "sandbox_id": "python-fast-build-node-a"})
        assert refused(answer) == (404, "sandbox_unknown")
        assert "not the name of a Sandbox" in answer.json["message"]
        assert world.driver.calls == 0


async def test_defect_96_an_order_for_another_node_is_refused() -> None:
    async with proxy_world() as world:
        answer = await world.caller.ask({**CREATE, "owner": {**OWNER, "node_name": "node-b"}})
        assert refused(answer) == (400, "wrong_node")
        assert world.driver.calls == 0


async def test_a_key_of_another_owner_is_not_taken_over() -> None:
    async with proxy_world() as world:
        await world.caller.ask(CREATE)
        other = {**CREATE, "owner": {**OWNER, "snap_start_uid": "another"}}
        assert refused(await world.caller.ask(other)) == (409, "template_exists")
        assert len(world.driver.created) == 1


async def test_a_rebuild_of_another_sandbox_is_ordered_though_its_key_is_the_same() -> None:
    async with proxy_world() as world:
        first = await world.caller.ask(CREATE)
        made = world.driver.artifacts["python-ready-1"]
        old = replace(made, snapshot_hash=made.snapshot_hash.replace(SANDBOX, "0" * 64))
        world.driver.artifacts["python-ready-1"] = old
        rebuilt = await world.caller.ask(CREATE)
        assert rebuilt.status == 200
        assert len(world.driver.created) == 2
        assert rebuilt.json["template_id"] == first.json["template_id"]


# -- bodies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        pytest.param(b"{", 400, "bad_request", id="not JSON"),
        pytest.param(b'{"action": "pool-gc"}', 403, "action_not_allowed", id="off the list"),
        pytest.param(b'{"action": "list-templates", "x": 1}', 400, "bad_request", id="unknown"),
        pytest.param(
            b'{"action": "list-templates", "action": "list-templates"}', 400, "bad_request", id="2x"
        ),
        pytest.param(json.dumps(delete("../../..")).encode(), 400, "bad_request", id="a path"),
        pytest.param(
            json.dumps({**CREATE, "snapshot_type": "environment"}).encode(),
            400,
            "bad_request",
            id="environment",
        ),
    ],
)
async def test_a_body_that_is_no_request_reaches_nobody(
    body: bytes, status: int, code: str
) -> None:
    async with proxy_world() as world:
        assert refused(await world.caller.send(post(body))) == (status, code)
        assert world.driver.calls == 0


async def test_defect_97_a_body_up_to_the_limit_is_taken_whole() -> None:
    text = json.dumps(LIST).encode()
    async with proxy_world() as world:
        body = text + b" " * (BODY_MAX_BYTES - len(text))
        assert (await world.caller.send(post(body))).status == 200


async def test_defect_97_a_body_above_the_limit_is_refused_not_cut() -> None:
    text = json.dumps(LIST).encode()
    async with proxy_world() as world:
        claimed = await world.caller.send(post(text, length=BODY_MAX_BYTES + 1))
        assert refused(claimed) == (413, "body_too_large")
        # What fits into the limit would be a request.
        chunk = text + b" " * (BODY_MAX_BYTES - len(text))
        chunked = b"%x\r\n%s\r\n1\r\n \r\n0\r\n\r\n" % (len(chunk), chunk)
        answer = await world.caller.send(post(chunked, "Transfer-Encoding: chunked"))
        assert refused(answer) == (413, "body_too_large")
        assert world.driver.calls == 0


async def test_a_chunked_body_is_a_body() -> None:
    text = json.dumps(LIST).encode()
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(text), text)
    async with proxy_world() as world:
        assert (await world.caller.send(post(chunked, "Transfer-Encoding: chunked"))).status == 200


async def test_a_packed_body_is_not_unpacked() -> None:
    async with proxy_world() as world:
        answer = await world.caller.send(post(b"\x1f\x8b", "Content-Encoding: gzip"))
        assert refused(answer) == (400, "bad_request")


# -- the provider fails ---------------------------------------------------------------------------

INNER = "vm.snapshot: /var/lib/kuasar/pool: Input/output error"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (PeerError(ErrorCode.PROVIDER_FAILED, INNER), 502, "provider_error"),
        (TransientError(ErrorCode.PROVIDER_UNREACHABLE, INNER), 502, "provider_error"),
        (TransientError(ErrorCode.DEADLINE_EXCEEDED, INNER), 504, "timeout"),
        (UsageError(ErrorCode.TEMPLATE_IN_USE, INNER), 409, "template_in_use"),
        (UsageError(ErrorCode.REQUEST_INVALID, INNER), 409, "sandbox_unfit"),
        (RuntimeError(INNER), 500, "internal"),
    ],
    ids=lambda value: (
        getattr(value, "code", None) or getattr(value, "__name__", None) or str(value)
    ),
)
async def test_defect_97_a_failure_is_told_without_the_providers_words(
    error: Exception, status: int, code: str
) -> None:
    async with proxy_world() as world:
        world.driver.error = error
        answer = await world.caller.ask(CREATE)
        assert refused(answer) == (status, code)
        assert b"/var/lib" not in answer.body
        (line,) = world.written.calls
        assert (line["status"], line["result"]) == (status, code)
        assert (INNER in line["detail"]) is not isinstance(error, RuntimeError)


async def test_what_passes_says_when_to_come_again() -> None:
    async with proxy_world() as world:
        world.driver.error = TransientError(ErrorCode.PROVIDER_UNREACHABLE, "", delay_s=4.2)
        assert (await world.caller.ask(LIST)).headers["retry-after"] == "5"


@pytest.mark.parametrize("members", [LIST, CREATE, delete("f" * 32)], ids=lambda one: one["action"])
async def test_a_provider_that_does_not_answer_is_not_waited_for(members: dict[str, Any]) -> None:
    async with proxy_world(deadlines=deadlines(call_s=0.05, create_s=0.05)) as world:
        world.driver.gate.clear()
        assert refused(await world.caller.ask(members)) == (504, "timeout")


async def test_a_snapshot_has_longer_than_other_calls() -> None:
    async with proxy_world(deadlines=deadlines(call_s=0.05)) as world:
        world.driver.gate.clear()
        making = asyncio.create_task(world.caller.ask(CREATE))
        await world.driver.entered.wait()
        assert (await world.caller.ask(LIST)).status == 504
        world.driver.gate.set()
        assert (await making).status == 200


# -- how much -------------------------------------------------------------------------------------


def keyed(key: str, **owner: str) -> dict[str, Any]:
    """A create under another key, or for another owner."""
    return {**CREATE, "key": key, "owner": {**OWNER, **owner}}


async def test_more_snapshots_at_once_than_allowed_are_refused() -> None:
    async with proxy_world() as world:
        world.driver.gate.clear()
        keys = [f"k{n}" for n in range(CREATES_MAX)]
        making = [asyncio.create_task(world.caller.ask(keyed(key))) for key in keys]
        await until(lambda: world.driver.calls == CREATES_MAX)
        answer = await world.caller.ask(keyed("another"))
        assert refused(answer) == (429, "limited")
        assert int(answer.headers["retry-after"]) > 0
        world.driver.gate.set()
        assert [(await one).status for one in making] == [200] * CREATES_MAX
        assert (await world.caller.ask(keyed("another"))).status == 200


async def test_a_snapshot_counts_until_it_is_made_even_if_nobody_waits_for_it() -> None:
    async with proxy_world(deadlines=deadlines(create_s=0.05)) as world:
        world.driver.gate.clear()
        for n in range(CREATES_MAX):
            assert (await world.caller.ask(keyed(f"k{n}"))).status == 504
        assert refused(await world.caller.ask(keyed("another"))) == (429, "limited")
        world.driver.gate.set()
        await until(lambda: len(world.driver.created) == CREATES_MAX)
        assert (await world.caller.ask(keyed("another"))).status == 200


async def test_who_asks_again_waits_for_what_is_being_made() -> None:
    async with proxy_world() as world:
        world.driver.gate.clear()
        asking = [asyncio.create_task(world.caller.ask(CREATE)) for _ in range(CREATES_MAX + 2)]
        await world.driver.entered.wait()
        await until(lambda: len(connections()) == len(asking))
        world.driver.gate.set()
        answers = [await one for one in asking]
        assert [one.status for one in answers] == [200] * len(asking)
        assert len({one.json["template_id"] for one in answers}) == 1
        assert len(world.driver.created) == 1


async def test_two_owners_of_one_key_do_not_take_turns() -> None:
    async with proxy_world() as world:
        world.driver.gate.clear()
        first = asyncio.create_task(world.caller.ask(CREATE))
        await world.driver.entered.wait()
        other = keyed(str(CREATE["key"]), snap_start_uid="another")
        assert refused(await world.caller.ask(other)) == (409, "template_busy")
        world.driver.gate.set()
        assert (await first).status == 200
        assert refused(await world.caller.ask(other)) == (409, "template_exists")
        assert len(world.driver.created) == 1


async def test_a_storm_of_one_action_is_held_back_others_are_not() -> None:
    async with proxy_world() as world:
        # It refills meanwhile, so a machine that is slow needs more of them.
        for _ in range(1000):
            answer = await world.caller.ask(LIST)
            if answer.status != 200:
                break
        assert refused(answer) == (429, "limited")
        assert answer.headers["retry-after"] == "1"
        assert (await world.caller.ask(delete("f" * 32))).status == 200
