"""What a wish for a session becomes."""

from __future__ import annotations

import pytest

from agentd.engine.session_orders import (
    OwnSession,
    make_facts,
    make_order,
    make_own_facts,
    make_own_order,
    new_session_id,
)
from agentd.engine.starter import ImageSource
from agentd.errors import UsageError
from agentd.settings import Deadlines, Lifetime
from agentd.wire.api import CreateSession, SessionMode
from agentd.wire.manifest import Machine

LIFE = Lifetime(default_ttl_s=100.0, max_ttl_s=200.0, default_idle_timeout_s=10.0)
CENTURY_S = 3600 * 24 * 365 * 100


def test_ids_do_not_repeat() -> None:
    assert len({new_session_id() for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("mode", "seconds"), [(SessionMode.FORK, 30.0), (SessionMode.COLD, 120.0)], ids=str
)
def test_a_start_has_the_deadline_of_its_kind(mode: SessionMode, seconds: float) -> None:
    request = CreateSession(template="py", mode=mode)
    assert make_order("s", request, Deadlines()).deadline_s == seconds


def test_a_client_may_ask_for_another_deadline_within_bounds() -> None:
    request = CreateSession(template="py", deadline_s=3.0)
    assert make_order("s", request, Deadlines()).deadline_s == 3.0
    with pytest.raises(UsageError, match="deadline_s"):
        make_order("s", CreateSession(template="py", deadline_s=601.0), Deadlines())


def test_a_session_expires_as_wished_or_by_default() -> None:
    assert make_facts(CreateSession(template="py"), LIFE, 1000.0).expires_at_s == 1100.0
    wished = CreateSession(template="py", ttl_s=150.0, idle_timeout_s=5.0)
    facts = make_facts(wished, LIFE, 1000.0)
    assert (facts.expires_at_s, facts.idle_timeout_s) == (1150.0, 5.0)


@pytest.mark.parametrize("changes", [{"ttl_s": 201.0}, {"idle_timeout_s": -1.0}], ids=str)
def test_a_life_out_of_bounds_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(changes))):
        make_facts(CreateSession(template="py", **changes), LIFE, 1000.0)


def test_an_own_session_forks_a_template_and_never_expires() -> None:
    wish = OwnSession("pod-1", "py", 30.0, labels={"pod": "team/one"}, auth_key="PEM")
    facts = make_own_facts(wish, 1000.0)
    assert (facts.mode, facts.template, facts.memory_mib) == (SessionMode.FORK, "py", 0)
    assert facts.labels == {"pod": "team/one"}
    assert min(facts.expires_at_s, facts.idle_timeout_s) > CENTURY_S
    order = make_own_order(wish)
    assert (order.vm_id, order.mode, order.auth_key) == ("pod-1", SessionMode.FORK, "PEM")


def test_an_own_session_boots_an_image_and_remembers_its_memory() -> None:
    wish = OwnSession("pod-1", ImageSource("/images/x", Machine(256, 1)), 120.0)
    facts = make_own_facts(wish, 1000.0)
    assert (facts.mode, facts.template, facts.memory_mib) == (SessionMode.COLD, "", 256)
    assert make_own_order(wish).mode is SessionMode.COLD
