"""What an admin socket says, word for word: the real sandboxer's words are the stand-in's, too."""

from __future__ import annotations

from typing import Any, Final

import pytest

from agentd.kuasar.client import Form
from tests.fakes.kuasar.sandboxer import ENVIRONMENT

from .admin import ask, refusal
from .conftest import OpenPlace
from .files import Kept

UNKNOWN: Final = "0" * 32
SANDBOX: Final = "a" * 12
FORK: Final = Kept("1" * 32, "key-a")
BARE: Final = Kept("e" * 32, "/kernel:/image:1:256::virtio-blk", ENVIRONMENT)
SIGNS: Final = "contains invalid characters (only [a-zA-Z0-9_-] allowed)"

# -- refusals of the JSON form --------------------------------------------------------------------

Refusals = dict[str, tuple[dict[str, Any], str]]
CREATES: Final[Refusals] = {
    "nothing": ({}, "missing sandbox_id"),
    "a number for a sandbox": ({"sandbox_id": 5}, "missing sandbox_id"),
    "a short id": (
        {"sandbox_id": "short"},
        "invalid sandbox_id: id must be 12-64 characters, got 5",
    ),
    "a long id": (
        {"sandbox_id": "a" * 65},
        "invalid sandbox_id: id must be 12-64 characters, got 65",
    ),
    "an id that is a path": (
        {"sandbox_id": "abcdefghijk/"},
        f"invalid sandbox_id: id 'abcdefghijk/' {SIGNS}",
    ),
    "no key": (
        {"sandbox_id": SANDBOX},
        "missing key: WarmFork snapshots require a pool key",
    ),
    "an empty key": (
        {"sandbox_id": SANDBOX, "key": ""},
        "invalid key: key must be 1-253 characters, got 0",
    ),
    "a long key": (
        {"sandbox_id": SANDBOX, "key": "k" * 254},
        "invalid key: key must be 1-253 characters, got 254",
    ),
    "a key that goes up": (
        {"sandbox_id": SANDBOX, "key": ".."},
        "invalid key: key '..' must start and end with an alphanumeric character",
    ),
    "a key that is a path": (
        {"sandbox_id": SANDBOX, "key": "a/b"},
        "invalid key: key 'a/b' contains invalid characters (only [a-zA-Z0-9_.-] allowed)",
    ),
    "a kind that is not made": (
        {"sandbox_id": SANDBOX, "key": "k", "snapshot_type": ENVIRONMENT},
        "unsupported snapshot_type 'environment'; use warm_fork or continuation",
    ),
    "an unknown sandbox": (
        {"sandbox_id": SANDBOX, "key": "k"},
        f"sandbox {SANDBOX} not found",
    ),
    "a number for a kind": (
        {"sandbox_id": SANDBOX, "key": "k", "snapshot_type": 7},
        f"sandbox {SANDBOX} not found",
    ),
}
COLLECTS: Final[Refusals] = {
    "nothing": ({}, "missing required field 'kind'"),
    "no kind": ({"template_id": UNKNOWN}, "missing required field 'kind'"),
    "no template": ({"kind": "warm_fork"}, "missing required field 'template_id'"),
    "an unknown kind": (
        {"kind": "other", "template_id": UNKNOWN},
        "unknown kind 'other'; use environment or warm_fork",
    ),
    "an unknown template": (
        {"kind": "warm_fork", "template_id": UNKNOWN},
        f"template {UNKNOWN} not found in pool",
    ),
    "no id": ({"kind": "warm_fork", "template_id": "x"}, "template x not found in pool"),
    "a fork as a bare machine": (
        {"kind": "environment", "template_id": FORK.template_id},
        f"template {FORK.template_id} has kind WarmFork, not Environment",
    ),
    "a bare machine as a fork": (
        {"kind": "warm_fork", "template_id": BARE.template_id},
        f"template {BARE.template_id} has kind Environment, not WarmFork",
    ),
}


@pytest.mark.parametrize("asked", CREATES)
async def test_why_template_create_is_refused(open_json: OpenPlace, asked: str) -> None:
    members, words = CREATES[asked]
    place = open_json()
    async with place.serving():
        assert await refusal(place.admin, action="template-create", **members) == words
        assert (await ask(place.admin, action="template-list"))["templates"] == []


@pytest.mark.parametrize("asked", COLLECTS)
async def test_why_pool_gc_is_refused(open_json: OpenPlace, asked: str) -> None:
    members, words = COLLECTS[asked]
    place = open_json(FORK, BARE)
    async with place.serving():
        assert await refusal(place.admin, action="pool-gc", **members) == words
        assert len((await ask(place.admin, action="template-list"))["templates"]) == 2


async def test_who_uses_a_template_keeps_it_even_when_stopped(open_json: OpenPlace) -> None:
    used = Kept("1" * 32, "key-a", uses=2)
    place = open_json(used)
    members = {"kind": "warm_fork", "template_id": used.template_id}
    async with place.serving():
        words = f"template {used.template_id} is in use by a running sandbox, cannot remove"
        assert await refusal(place.admin, action="pool-gc", **members) == words
        status = await ask(place.admin, action="pool-status")
        assert status["active_shared_refs"] == [{"template_id": used.template_id, "refs": 2}]
        reason = {"template_id": used.template_id, "reason": "shared_refcount"}
        assert status["gc_blocked"] == [reason]


async def test_a_sandbox_that_stopped_cannot_be_snapshotted(open_json: OpenPlace) -> None:
    place = open_json(Kept("1" * 32, "key-a", uses=1))
    async with place.serving():
        (sandbox,) = (await ask(place.admin, action="sandbox-list"))["sandboxes"]
        assert sandbox["status"] == "stopped"
        said = await refusal(
            place.admin, action="template-create", sandbox_id=sandbox["id"], key="key-a"
        )
        assert "to be running, current status" in said
        assert sandbox["id"] in said


async def test_a_sandbox_shows_the_kind_of_its_template(open_json: OpenPlace) -> None:
    used = Kept("1" * 32, "key-a", uses=1)
    place = open_json(used)
    async with place.serving():
        (sandbox,) = (await ask(place.admin, action="sandbox-list"))["sandboxes"]
    assert sandbox["template_id"] == used.template_id
    assert sandbox["template_snapshot_type"] == used.kind


# -- what both forms say --------------------------------------------------------------------------

GETS: Final[Refusals] = {
    "nothing": ({}, "missing template_id"),
    "null": ({"template_id": None}, "missing template_id"),
    "a short id": (
        {"template_id": "short"},
        "invalid template_id: id must be 12-64 characters, got 5",
    ),
    "an id that is a path": (
        {"template_id": "abcdefghijk/"},
        f"invalid template_id: id 'abcdefghijk/' {SIGNS}",
    ),
    "an unknown template": ({"template_id": UNKNOWN}, f"template {UNKNOWN} not found"),
}
ACTIONS: Final = {
    "template-nope": "unknown template action: template-nope",
    "template-": "unknown template action: template-",
    "template": "unknown template action: template-",
    "template-from-bundle": "unknown template action: template-from-bundle",
    "pool-nope": "unknown pool action: pool-nope",
    "nope-nope": "unknown action: nope-nope",
    "TEMPLATE-LIST": "unknown action: TEMPLATE-LIST",
    "from-sandbox": "unknown action: from-sandbox",
    "": "unknown action: ",
}


@pytest.mark.parametrize("asked", GETS)
async def test_why_template_get_is_refused(open_place: OpenPlace, asked: str) -> None:
    members, words = GETS[asked]
    place = open_place()
    async with place.serving():
        assert await refusal(place.admin, action="template-get", **members) == words


@pytest.mark.parametrize("action", ACTIONS, ids=repr)
async def test_an_unknown_action_is_named(open_place: OpenPlace, action: str) -> None:
    place = open_place()
    async with place.serving():
        assert await refusal(place.admin, action=action) == ACTIONS[action]


async def test_the_forms_differ_in_what_they_do_not_know(open_place: OpenPlace) -> None:
    """What a probe goes by."""
    place = open_place()
    async with place.serving():
        said = await refusal(place.admin, action="template-create")
    by_form = {
        Form.JSON: "missing sandbox_id",
        Form.GRPC: "unknown template action: template-create",
    }
    assert said == by_form[place.form]


async def test_the_gRPC_form_knows_no_sandboxes_on_its_admin_socket(open_grpc: OpenPlace) -> None:
    place = open_grpc()
    async with place.serving():
        for action in ("sandbox-list", "continuation-list"):
            assert await refusal(place.admin, action=action) == f"unknown action: {action}"


async def test_the_gRPC_form_collects_bare_machines_alone(open_grpc: OpenPlace) -> None:
    """A kind is given, as some builds ask for one; it decides nothing."""
    place = open_grpc(FORK, BARE)
    async with place.serving():
        members = {"kind": "warm_fork", "template_id": FORK.template_id}
        words = f"template {FORK.template_id} has kind WarmFork, not Environment"
        assert await refusal(place.admin, action="pool-gc", **members) == words
        members = {"kind": "warm_fork", "template_id": BARE.template_id}
        reply = await ask(place.admin, action="pool-gc", **members)
        assert reply["ok"] is True
        assert (reply["removed"], reply["remaining"]) == (1, 1)


async def test_without_a_pool_nothing_is_listed_and_the_status_says_why(
    open_place: OpenPlace,
) -> None:
    place = open_place(has_pool=False)
    async with place.serving():
        assert await ask(place.admin, action="template-list") == {"ok": True, "templates": []}
        assert await refusal(place.admin, action="pool-status") == "template pool not configured"


async def test_without_a_pool_is_said_before_the_sandbox_is_looked_for(
    open_json: OpenPlace,
) -> None:
    place = open_json(has_pool=False)
    async with place.serving():
        said = await refusal(place.admin, action="template-create", sandbox_id=SANDBOX, key="key-a")
    assert said == "template pool not configured"


async def test_the_status_of_an_empty_pool(open_place: OpenPlace) -> None:
    place = open_place()
    async with place.serving():
        assert await ask(place.admin, action="pool-status") == {
            "ok": True,
            "total": 0,
            "keys": 0,
            "by_type": [{"type": "environment", "count": 0}, {"type": "warm_fork", "count": 0}],
            "by_key": [],
            "continuation": 0,
            "in_flight": 0,
            "in_flight_restores": [],
            "active_shared_refs": [],
            "gc_blocked": [],
            "templates_created": 0,
            "pool_hits": 0,
            "pool_misses": 0,
            "hit_rate": 0.0,
            "avg_restore_ms": 0.0,
        }


async def test_members_that_nobody_knows_are_left_alone(open_place: OpenPlace) -> None:
    place = open_place()
    async with place.serving():
        assert (await ask(place.admin, action="template-list", surplus=[1]))["ok"] is True
