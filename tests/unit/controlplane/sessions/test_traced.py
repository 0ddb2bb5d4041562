"""A session's start goes on from the span of its decision."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from agentd.tracing import Span, TraceContext, enter, parse_traceparent
from controlplane.api import names
from controlplane.api.core import PodTemplate, PodTemplateMetadata, SandboxSpec
from controlplane.sessions.decision import Decision, StartReason, cold
from controlplane.sessions.session import SessionStart, is_restore_annotation
from controlplane.sessions.traced import traced
from controlplane.snapshots.normalise import is_volatile

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
RESTORE = Decision("key-a", StartReason.RESTORED_INTENT, "snap")


def session(**annotations: str) -> SessionStart:
    metadata = PodTemplateMetadata(annotations=annotations)
    spec = SandboxSpec(pod_template=PodTemplate(spec={}, metadata=metadata))
    return SessionStart("team", "python", spec)


async def decide(
    decision: Decision, one: SessionStart, header: str = ""
) -> tuple[Decision, Span, TraceContext]:
    spans: list[Span] = []

    async def find(_: SessionStart) -> Decision:
        return decision

    enter(header)
    found = await traced(find, spans.append)(one)
    (span,) = spans
    said = parse_traceparent(found.annotations[names.TRACEPARENT])
    assert said is not None
    return found, span, said


async def test_an_intent_names_the_span_of_its_decision() -> None:
    found, span, said = await decide(RESTORE, session())
    assert said == span.context
    assert span.parent_id == ""
    assert span.attributes["snapstart.reason"] == "restored_intent"
    assert replace(found, traceparent="") == RESTORE
    assert found.annotations[names.SNAPSHOT_KEY] == "key-a"


async def test_a_cold_start_is_traced_as_well() -> None:
    found, span, said = await decide(cold(StartReason.NOT_READY), session())
    assert set(found.annotations) == {names.TRACEPARENT}
    assert said == span.context


async def test_the_api_servers_span_is_the_parent() -> None:
    _, span, said = await asyncio.create_task(decide(RESTORE, session(), PARENT))
    assert (span.parent_id, said.trace_id) == (SPAN, TRACE)


async def test_else_it_is_what_the_author_wrote() -> None:
    _, span, said = await decide(RESTORE, session(**{names.TRACEPARENT: PARENT}))
    assert (span.parent_id, said.trace_id) == (SPAN, TRACE)


async def test_noise_of_an_author_begins_a_new_trace() -> None:
    _, span, _ = await decide(RESTORE, session(**{names.TRACEPARENT: "x" * 10_000}))
    assert span.parent_id == ""


async def test_a_lookup_that_is_given_up_is_told() -> None:
    spans: list[Span] = []

    async def never(_: SessionStart) -> Decision:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await traced(never, spans.append)(session())
    assert [span.error for span in spans] == ["given up"]


def test_the_annotation_is_part_of_no_hash_and_restores_nothing() -> None:
    assert is_volatile(names.TRACEPARENT)
    assert not is_restore_annotation(names.TRACEPARENT)
