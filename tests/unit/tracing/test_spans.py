"""What steps become in a trace."""

from __future__ import annotations

import pytest

from agentd.spans import SpanTracer
from agentd.tracing import Span, TraceContext, enter

MS = 1_000_000
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Rig:
    """A tracer with its clocks in our hands; the wall clock is one second ahead of the other."""

    def __init__(self) -> None:
        self.at_ms = 0
        self.spans: list[Span] = []
        self.tracer = SpanTracer(
            self.spans.append, lambda: (self.at_ms + 1000) * MS, lambda: self.at_ms * MS
        )

    def told(self) -> list[tuple[str, str, int, int]]:
        """Service, name, times in ms of the wall clock."""
        return [(s.service, s.name, s.start_ns // MS, s.end_ns // MS) for s in self.spans]


def ready(rig: Rig, start: str = "fork", **stages: float) -> None:
    rig.tracer.step("session.ready", session="s-1", template="py", start=start, **stages)


def test_a_start_has_its_stages_one_after_the_other() -> None:
    rig = Rig()
    rig.at_ms = 500
    ready(
        rig, spawn_ms=10.0, load_ms=12.0, resume_ms=15.0, inject_ms=20.0, guest_ready_ms=30.0,
        total_ms=100.0,
    )  # fmt: skip
    assert rig.told() == [
        ("snapstart-agentd", "session.start", 1400, 1500),
        ("snapstart-agentd", "spawn", 1470, 1480),
        ("snapstart-agentd", "load", 1480, 1482),
        ("snapstart-agentd", "resume", 1482, 1485),
        ("snapstart-guest", "inject", 1485, 1490),
        ("snapstart-guest", "guest_ready", 1490, 1500),
    ]
    whole, *parts = rig.spans
    assert whole.parent_id == ""
    assert {part.parent_id for part in parts} == {whole.context.span_id}
    assert {part.context.trace_id for part in parts} == {whole.context.trace_id}
    assert whole.attributes["snapstart.start"] == "fork"


async def test_a_start_goes_on_from_the_span_of_whoever_asked() -> None:
    rig = Rig()
    enter(f"00-{TRACE}-{SPAN}-01")
    ready(rig, total_ms=1.0)
    (whole,) = rig.spans
    assert (whole.context.trace_id, whole.parent_id) == (TRACE, SPAN)


def test_the_stages_of_a_parked_fork_are_not_those_of_the_request() -> None:
    rig = Rig()
    ready(rig, start="parked", spawn_ms=10.0, guest_ready_ms=30.0, total_ms=1.0)
    assert [span.name for span in rig.spans] == ["session.start"]


def test_an_adopted_session_was_started_for_nobody() -> None:
    rig = Rig()
    ready(rig, start="adopted")
    assert rig.spans == []


def test_a_start_that_failed_says_why() -> None:
    rig = Rig()
    rig.tracer.step(
        "session.failed", session="s-1", template="py", code="node_full", error="full", total_ms=2.0
    )
    (span,) = rig.spans
    assert (span.name, span.error) == ("session.start", "full")
    assert span.attributes["snapstart.code"] == "node_full"


def build(rig: Rig, name: str, *stages: str) -> None:
    for stage in stages:
        rig.tracer.step(f"template.{stage}.started", template=name)
        rig.at_ms += 10


def test_a_build_has_its_stages() -> None:
    rig = Rig()
    rig.tracer.step("template.begun", template="py")
    build(rig, "py", "image", "boot", "warm", "seal")
    rig.tracer.step("template.ready.started", template="py")
    rig.tracer.step("template.ready", template="py", image_ms=10.0)
    assert rig.told() == [
        ("snapstart-agentd", "template.build", 1000, 1040),
        ("snapstart-agentd", "image", 1000, 1010),
        ("snapstart-agentd", "boot", 1010, 1020),
        ("snapstart-guest", "warm", 1020, 1030),
        ("snapstart-agentd", "seal", 1030, 1040),
    ]


def test_a_build_that_failed_says_so_at_its_last_stage() -> None:
    rig = Rig()
    rig.tracer.step("template.begun", template="py")
    build(rig, "py", "image", "boot")
    rig.tracer.step("template.failed", template="py", stage="boot", code="vmm_failed", error="died")
    assert [(span.name, span.error) for span in rig.spans] == [
        ("template.build", "died"), ("image", ""), ("boot", "died"),
    ]  # fmt: skip


def test_a_held_build_is_two_pieces_of_work() -> None:
    rig = Rig()
    build(rig, "t-1", "image", "boot", "warm", "baseline")
    rig.tracer.step("held.waiting", vm="t-1")
    rig.at_ms += 100
    rig.tracer.step("template.begun", template="key")
    build(rig, "key", "verdict", "checkpoint", "seal")
    rig.tracer.step("template.ready", template="key")
    rig.tracer.step("held.over", vm="t-1", state="sealed", error="")
    names = [span.name for span in rig.spans]
    assert names.count("template.hold") == names.count("template.build") == 1
    assert rig.told()[0] == ("snapstart-agentd", "template.hold", 1000, 1040)


def test_a_build_that_nobody_saw_begin_has_no_times() -> None:
    rig = Rig()
    rig.tracer.step("template.failed", template="py", stage="", code="internal", error="died")
    assert rig.spans == []


def test_builds_that_nobody_ends_are_forgotten_at_last() -> None:
    rig = Rig()
    for number in range(1000):
        build(rig, f"t-{number}", "image")
    rig.tracer.step("template.failed", template="t-0", stage="", code="internal", error="died")
    assert rig.spans == []
    rig.tracer.step("template.failed", template="t-999", stage="", code="internal", error="died")
    assert len(rig.spans) == 2


@pytest.mark.parametrize(
    "event", ["pod.started", "template.loaded", "daemon.ready", "trace.dropped"]
)
def test_other_steps_are_none(event: str) -> None:
    rig = Rig()
    rig.tracer.step(event, template="py")
    assert rig.spans == []


def test_an_attempt_of_a_task_is_a_span() -> None:
    rig = Rig()
    rig.at_ms = 100
    rig.tracer.step(
        "task.attempted",
        task="create-x",
        operation="Create",
        provider="p",
        elapsed_ms=40.0,
        error="",
    )
    assert rig.told() == [("snapstart-agentd", "task.create", 1060, 1100)]


def test_contexts_of_spans_are_their_own() -> None:
    rig = Rig()
    ready(rig, total_ms=1.0)
    ready(rig, total_ms=1.0)
    first, second = (span.context for span in rig.spans)
    assert isinstance(first, TraceContext)
    assert first.trace_id != second.trace_id
