"""The stand-in decides as the sandboxer was read to decide: a row for each row of the reference."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentd.kuasar.client import Form
from tests.fakes.kuasar.sandboxer import ENVIRONMENT, WARM_FORK, Sandboxer
from tests.fakes.kuasar.starts import Config, RefusedError

KEY, ID = "kuasar.io/template-key", "kuasar.io/template-id"
TYPE, UID = "kuasar.io/snapshot-type", "kuasar.io/pod-uid"
CUBE = "agentcube.volcano.sh/snapshot-key"
JSON, GRPC = Form.JSON, Form.GRPC
FORK, BOOT, FAIL = "fork", "boot", "fail"

Row = tuple[dict[str, str], Config, str, str]
ON = Config()
OFF = Config(has_fork_restores=False)
RESUME = Config(has_continuations=True)
MAPPED = Config(resolver_keys=("example.org/key", CUBE))

# Annotations, the node, what comes of it in the JSON form, in the gRPC form.
ROWS: dict[str, Row] = {
    "nothing": ({}, ON, BOOT, BOOT),
    "a type alone": ({TYPE: "warm-fork"}, ON, FAIL, BOOT),
    "a type that is none": ({TYPE: "environment", KEY: "k"}, ON, FAIL, FAIL),
    "type and key": ({TYPE: "warm-fork", KEY: "k"}, ON, FORK, FORK),
    "type and key, spelt otherwise": ({TYPE: "warm_fork", KEY: "k"}, ON, FORK, FORK),
    "type and a key that is missing": ({TYPE: "warm-fork", KEY: "none"}, ON, FAIL, BOOT),
    "type and id": ({TYPE: "warm-fork", ID: "the id"}, ON, FORK, FAIL),
    "type, id and key": ({TYPE: "warm-fork", ID: "the id", KEY: "k"}, ON, FORK, FORK),
    "type, id and another key": ({TYPE: "warm-fork", ID: "the id", KEY: "x"}, ON, FAIL, FAIL),
    "type and an id that is missing": ({TYPE: "warm-fork", ID: "none"}, ON, FAIL, FAIL),
    "a key": ({KEY: "k"}, ON, FORK, FORK),
    "a key that is missing": ({KEY: "none"}, ON, BOOT, BOOT),
    "an id": ({ID: "the id"}, ON, FORK, FAIL),
    "an id and its key": ({ID: "the id", KEY: "k"}, ON, FORK, FORK),
    "an id that is missing": ({ID: "none", KEY: "k"}, ON, BOOT, FAIL),
    "type and key, no fork restores": ({TYPE: "warm-fork", KEY: "k"}, OFF, BOOT, BOOT),
    "type and key, restores of the other kind alone": (
        {TYPE: "warm-fork", KEY: "k"},
        replace(RESUME, has_fork_restores=False),
        FAIL,
        BOOT,
    ),
    "a key, restores of the other kind alone": (
        {KEY: "k"},
        replace(RESUME, has_fork_restores=False),
        BOOT,
        BOOT,
    ),
    "a key, no pool": ({KEY: "k"}, Config(has_pool=False), BOOT, BOOT),
    "a continuation, switched off": ({TYPE: "continuation", UID: "u"}, ON, FAIL, BOOT),
    "a continuation of nobody": ({TYPE: "continuation"}, RESUME, FAIL, BOOT),
    "a continuation that is missing": ({TYPE: "continuation", UID: "u"}, RESUME, FAIL, FAIL),
    "a Pod's UID": ({UID: "u"}, ON, BOOT, BOOT),
    "a Pod's UID, continuations on": ({UID: "u"}, RESUME, FAIL, FAIL),
    "a Pod's UID beside a fork, continuations on": (
        {TYPE: "warm-fork", KEY: "k", UID: "u"},
        RESUME,
        FORK,
        FORK,
    ),
    "AgentCube's key": ({CUBE: "k"}, MAPPED, BOOT, FORK),
    "AgentCube's key that is missing": ({CUBE: "none"}, MAPPED, BOOT, BOOT),
    "AgentCube's key, no resolver": ({CUBE: "k"}, ON, BOOT, BOOT),
    "the resolver's first key counts": (
        {CUBE: "none", "example.org/key": "k"},
        MAPPED,
        BOOT,
        FORK,
    ),
    "AgentCube's key, no fork restores": (
        {CUBE: "k"},
        replace(MAPPED, has_fork_restores=False),
        BOOT,
        BOOT,
    ),
    "any native key keeps the resolver out": ({CUBE: "k", UID: "u"}, MAPPED, BOOT, BOOT),
    "other native keys do not": ({CUBE: "k", "kuasar.io/task-id": "t"}, MAPPED, BOOT, FORK),
    "no fallback, nothing asked": ({}, Config(has_fallback=False), FAIL, FAIL),
    "no fallback, a key": ({KEY: "k"}, Config(has_fallback=False), FORK, FORK),
    "no fallback, a key that is missing": ({KEY: "none"}, Config(has_fallback=False), FAIL, FAIL),
}


@pytest.mark.parametrize("form", [JSON, GRPC], ids=["json", "grpc"])
@pytest.mark.parametrize("case", ROWS)
async def test_what_a_start_makes_of_its_annotations(case: str, form: Form) -> None:
    annotations, config, in_json, in_grpc = ROWS[case]
    sandboxer = Sandboxer(replace(config, has_pool=True))
    template = await sandboxer.create_fork(sandboxer.run("build"), "k")
    sandboxer.config = config
    annotations = {
        key: template.template_id if value == "the id" else value
        for key, value in annotations.items()
    }
    assert outcome(sandboxer, annotations, form) == (in_json if form is JSON else in_grpc)


def outcome(sandboxer: Sandboxer, annotations: dict[str, str], form: Form) -> str:
    try:
        started = sandboxer.start("session", annotations, form)
    except RefusedError:
        return FAIL
    assert started.is_listening is not started.is_forked
    return FORK if started.is_forked else BOOT


async def test_a_bare_machine_is_what_a_miss_begins_from() -> None:
    sandboxer = Sandboxer()
    bare = sandboxer.add_environment()
    started = sandboxer.start("session", {KEY: "none"}, JSON)
    assert (started.template_id, started.template_type) == (bare.template_id, ENVIRONMENT)
    assert not started.is_forked


@pytest.mark.parametrize("lease", ["shared", "exclusive"])
async def test_a_restore_takes_the_newest_and_by_its_lease_uses_it_up(lease: str) -> None:
    sandboxer = Sandboxer(Config(lease=lease))
    build = sandboxer.run("build")
    await sandboxer.create_fork(build, "k")
    newest = await sandboxer.create_fork(build, "k")
    started = sandboxer.start("session", {KEY: "k"}, JSON)
    assert (started.template_id, started.template_type) == (newest.template_id, WARM_FORK)
    assert (newest.template_id in sandboxer.templates) is (lease == "shared")
    sandboxer.end(started)
    assert newest.uses == 0


async def test_a_restore_that_fails_leaves_the_template_and_by_the_form_the_pod() -> None:
    sandboxer = Sandboxer(Config(lease="exclusive"))
    await sandboxer.create_fork(sandboxer.run("build"), "k")
    asked = {TYPE: "warm-fork", KEY: "k"}
    sandboxer.restore_faults.extend(["vm.restore: 500"] * 2)
    assert outcome(sandboxer, asked, JSON) == FAIL
    assert outcome(sandboxer, asked, GRPC) == BOOT
    assert outcome(sandboxer, asked, GRPC) == FORK


async def test_a_full_key_gives_up_its_oldest_if_that_is_idle() -> None:
    sandboxer = Sandboxer(Config(max_per_key=2))
    build = sandboxer.run("build")
    first, second = [await sandboxer.create_fork(build, "k") for _ in range(2)]
    third = await sandboxer.create_fork(build, "k")
    assert list(sandboxer.templates) == [second.template_id, third.template_id]
    second.uses = 1
    with pytest.raises(RefusedError, match="max_per_key=2"):
        await sandboxer.create_fork(build, "k")
    assert first.template_id not in sandboxer.templates


async def test_single_use_templates_are_not_evicted_for_the_watermark() -> None:
    sandboxer = Sandboxer(Config(lease="exclusive", gc_watermark=1))
    build = sandboxer.run("build")
    await sandboxer.create_fork(build, "k")
    with pytest.raises(RefusedError, match="water level"):
        await sandboxer.create_fork(build, "other")


async def test_what_was_too_much_goes_once_nobody_needs_it() -> None:
    sandboxer = Sandboxer(Config())
    build = sandboxer.run("build")
    first = await sandboxer.create_fork(build, "a")
    session = sandboxer.start("session", {KEY: "a"}, JSON)
    second = await sandboxer.create_fork(build, "b")
    sandboxer.config.gc_watermark = 1
    assert set(sandboxer.templates) == {first.template_id, second.template_id}
    sandboxer.end(session)
    assert list(sandboxer.templates) == [second.template_id]
