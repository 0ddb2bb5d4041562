"""Turn steps of the engine into spans of traces.

What took how long is in the steps already: a session that is ready brings its stages, a build tells
each one as it begins. A span of the guest is time in which the host waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from agentd.tracing import Sink, Span, TraceContext, current, new_context

_HOST: Final = "snapstart-agentd"
_GUEST: Final = "snapstart-guest"
# In order; each ends where the next one begins.
_START_STAGES: Final = ("spawn", "load", "resume", "inject", "guest_ready")
_IN_GUEST: Final = frozenset({"inject", "guest_ready", "warm", "baseline"})
_MS_NS: Final = 1_000_000
_MOST_BUILDS: Final = 256  # a build that nobody ends is forgotten after so many others

Details = Mapping[str, str | int | float]


@dataclass
class _Build:
    """A build in progress. begun_ns: monotonic; stages: with when each began."""

    parent: TraceContext | None
    context: TraceContext
    begun_ns: int
    stages: list[tuple[str, int]] = field(default_factory=list)


class SpanTracer:
    """A tracer that makes spans. now_ns: since the epoch. monotonic_ns: of a clock nobody sets."""

    def __init__(
        self,
        sink: Sink,
        now_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._sink = sink
        self._now_ns = now_ns
        self._monotonic_ns = monotonic_ns
        self._builds: dict[str, _Build] = {}

    def step(self, event: str, /, **details: str | int | float) -> None:
        """See Tracer; steps that end no piece of work that is traced are ignored."""
        match event:
            case "session.ready":
                self._end_start(details, "")
            case "session.failed":
                self._end_start(details, str(details["error"]))
            case "task.attempted":
                self._end_task(details)
            case "template.begun":
                self._begin_build(str(details["template"]))
            case "template.ready" | "template.failed":
                name, error = str(details["template"]), str(details.get("error", ""))
                self._end_build(name, "template.build", error)
            case "held.waiting" | "held.over":
                self._end_build(str(details["vm"]), "template.hold", str(details.get("error", "")))
            case _ if event.startswith("template.") and event.endswith(".started"):
                self._enter_stage(str(details["template"]), event.split(".")[1])

    def _end_start(self, details: Details, error: str) -> None:
        total_ms = details.get("total_ms")
        if total_ms is None:
            return  # adopted: it was not started for anybody
        parent = current()
        end_ns = self._now_ns()
        begun_ns = end_ns - _ns(total_ms)
        whole = _span("session.start", new_context(parent), parent, begun_ns, end_ns)
        self._end(whole, _about(details, "session", "template", "start", "code"), error)
        if details.get("start") in ("fork", "cold"):
            for stage, start_ns, stage_end_ns in _stages(details, begun_ns, end_ns):
                self._end(_part(whole, stage, start_ns, stage_end_ns), {}, "")

    def _end_task(self, details: Details) -> None:
        parent = current()
        end_ns = self._now_ns()
        begun_ns = end_ns - _ns(details["elapsed_ms"])
        name = f"task.{details['operation']}".lower()
        span = _span(name, new_context(parent), parent, begun_ns, end_ns)
        self._end(span, _about(details, "task", "provider"), str(details["error"]))

    def _begin_build(self, name: str) -> _Build:
        parent = current()
        build = _Build(parent, new_context(parent), self._monotonic_ns())
        self._builds[name] = build
        if len(self._builds) > _MOST_BUILDS:
            del self._builds[next(iter(self._builds))]
        return build

    def _enter_stage(self, name: str, stage: str) -> None:
        build = self._builds.get(name) or self._begin_build(name)
        build.stages.append((stage, self._monotonic_ns()))

    def _end_build(self, name: str, what: str, error: str) -> None:
        build = self._builds.pop(name, None)
        if build is None:
            return
        end_ns, ended_ns = self._now_ns(), self._monotonic_ns()
        zero_ns = end_ns - ended_ns
        whole = _span(what, build.context, build.parent, zero_ns + build.begun_ns, end_ns)
        self._end(whole, {"template": name}, error)
        ends = [*(start_ns for _, start_ns in build.stages[1:]), ended_ns]
        for (stage, start_ns), until_ns in zip(build.stages, ends, strict=False):
            if stage != "ready":
                part = _part(whole, stage, zero_ns + start_ns, zero_ns + until_ns)
                self._end(part, {}, error if until_ns == ended_ns else "")

    def _end(self, span: Span, attributes: Details, error: str) -> None:
        said = {f"snapstart.{name}": value for name, value in attributes.items()}
        self._sink(replace(span, attributes=said, error=error))


def _span(
    name: str, context: TraceContext, parent: TraceContext | None, start_ns: int, end_ns: int
) -> Span:
    parent_id = "" if parent is None else parent.span_id
    return Span(_HOST, name, context, parent_id, start_ns, end_ns)


def _part(whole: Span, stage: str, start_ns: int, end_ns: int) -> Span:
    service = _GUEST if stage in _IN_GUEST else _HOST
    own = new_context(whole.context)
    return Span(service, stage, own, whole.context.span_id, start_ns, end_ns)


def _stages(details: Details, begun_ns: int, end_ns: int) -> Iterable[tuple[str, int, int]]:
    """Stages with their times: told as time since the machine's start, which ended with the last.

    What the whole took longer went by before: the wait for its turn, the template's loading.
    """
    found = ((stage, details.get(f"{stage}_ms")) for stage in _START_STAGES)
    told = sorted(((s, _ns(ms)) for s, ms in found if ms is not None), key=lambda one: one[1])
    at_ns = max(begun_ns, end_ns - told[-1][1]) if told else end_ns
    since_ns = 0
    for stage, until_ns in told:
        yield stage, at_ns + since_ns, at_ns + until_ns
        since_ns = until_ns


def _about(details: Details, *names: str) -> Details:
    return {name: details[name] for name in names if details.get(name)}


def _ns(milliseconds: str | int | float) -> int:
    return round(float(milliseconds) * _MS_NS)
