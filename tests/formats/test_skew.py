"""Programs one version apart understand each other, whichever is the older one."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from .wire import KEPT, members, required, sample, structs, values

STRUCTS = structs()
THEN: dict[str, dict[str, Any]] = json.loads(KEPT.read_text())
# What a caller wishes, or orders: a member that is not known is a wish that would not be fulfilled.
REFUSING = {name for name, kind in STRUCTS.items() if kind.__struct_config__.forbid_unknown_fields}
# MODULE.STRUCT.MEMBER=WORD of what is read from this version on, and said from the next one on.
NOT_SAID_YET: frozenset[str] = frozenset()
EVERYBODY = pytest.mark.parametrize("name", sorted(STRUCTS))


def read(kind: type[msgspec.Struct], value: Any) -> msgspec.Struct:
    return msgspec.json.decode(msgspec.json.encode(value), type=kind)


@EVERYBODY
def test_an_older_sender_leaves_out_what_came_later(name: str) -> None:
    kind = STRUCTS[name]
    read(kind, sample(kind))
    if name in THEN:
        added = required(kind) - set(THEN[name]["required"])
        assert not added, f"{added}: members of {name} that an older program does not send"


@pytest.mark.parametrize("name", sorted(set(STRUCTS) - REFUSING))
def test_a_newer_sender_says_more(name: str) -> None:
    kind = STRUCTS[name]
    value = sample(kind)
    assert read(kind, {**value, "ofALaterVersion": {"a": [1]}}) == read(kind, value)


@pytest.mark.parametrize("name", sorted(THEN))
def test_an_older_reader_finds_what_it_needs(name: str) -> None:
    assert name in STRUCTS, f"an older program still sends or wants {name}"
    gone = set(THEN[name]["required"]) - members(STRUCTS[name])
    assert not gone, f"{gone}: members that an older program cannot do without"


@pytest.mark.parametrize("name", sorted(name for name in THEN if "values" in THEN[name]))
def test_neither_reader_meets_a_word_that_it_does_not_know(name: str) -> None:
    """A whole object is not read for one of them."""
    now = values(STRUCTS[name])
    for member, words in THEN[name]["values"].items():
        gone = set(words) - set(now[member])
        assert not gone, f"{gone}: an older program still says so in {member} of {name}"
        new = {f"{name}.{member}={word}" for word in set(now[member]) - set(words)}
        assert name in REFUSING or new <= NOT_SAID_YET


def test_only_wishes_and_orders_refuse_members_that_are_not_known() -> None:
    modules = {name.rpartition(".")[0] for name in REFUSING}
    assert modules == {"agentd.wire.api", "agentd.wire.pager"}
    for name in REFUSING:
        kind = STRUCTS[name]
        with pytest.raises(msgspec.ValidationError, match="unknown field"):
            read(kind, {**sample(kind), "ofALaterVersion": 1})


@pytest.mark.parametrize(
    "name", sorted(one for one in REFUSING if one.startswith("agentd.wire.api"))
)
def test_a_newer_client_sends_nothing_that_it_does_not_wish(name: str) -> None:
    kind = STRUCTS[name]
    value = sample(kind)
    assert msgspec.to_builtins(read(kind, value)) == value
