"""Builds say which span they are."""

from __future__ import annotations

from datetime import timedelta

from agentd.tracing import Span, parse_traceparent
from controlplane.api import names
from controlplane.api.types import ArtifactPhase
from controlplane.snapshots.policy import Policy
from controlplane.snapshots.steps import Count, Metric
from controlplane.snapshots.traced import build_span, context_of
from tests.fakes.snapshot_world import World


def made_world(policy: Policy) -> World:
    world = World(policy)
    for node in ("node-a", "node-b"):
        world.add_node(node)
    world.add_class()
    world.add_template()
    world.add_snapshot()
    return world


def waiting_world(*, is_traced: bool) -> World:
    """Builds are ordered, no agent has begun."""
    world = made_world(Policy(is_traced=is_traced))
    world.agents.idle = {"node-a", "node-b"}
    world.settle()
    return world


def test_task_and_pod_of_a_build_name_one_span_all_builds_one_trace() -> None:
    world = waiting_world(is_traced=True)
    expected = {
        node: context_of(world.snapshot, world.artifact(node)) for node in ("node-a", "node-b")
    }
    of_tasks = {
        task.spec.target_node_name: task.metadata.annotation(names.TRACEPARENT)
        for task in world.tasks
    }
    of_pods = {
        one.spec.pod_template.spec["nodeName"]: (one.spec.pod_template.metadata.annotations or {})[
            names.TRACEPARENT
        ]
        for one in world.sandboxes
    }
    assert of_tasks == of_pods == {node: one.traceparent for node, one in expected.items()}
    assert len({one.trace_id for one in expected.values()}) == 1
    assert len({one.span_id for one in expected.values()}) == 2
    assert all(parse_traceparent(text) is not None for text in of_tasks.values())


def test_without_traces_nothing_is_annotated() -> None:
    world = waiting_world(is_traced=False)
    carried = [task.metadata.annotation(names.TRACEPARENT) for task in world.tasks]
    pods = [one.spec.pod_template.metadata.annotations or {} for one in world.sandboxes]
    assert carried == ["", ""]
    assert not any(names.TRACEPARENT in one for one in pods)


def test_the_hash_is_the_same_with_traces_and_without() -> None:
    with_traces, without = waiting_world(is_traced=True), waiting_world(is_traced=False)
    hashes = {w.artifact("node-a").snapshot_hash for w in (with_traces, without)}
    assert len(hashes) == 1


def ended(world: World) -> list[Span]:
    """Spans of the builds that the world's steps say are over."""
    spans = [
        build_span(world.snapshot, step.about, world.now)
        for step in world.steps
        if isinstance(step, Count) and step.about is not None
    ]
    return [span for span in spans if span is not None]


def test_a_build_that_is_over_is_told_once() -> None:
    world = made_world(Policy(is_traced=True))
    world.settle()
    spans = ended(world)
    assert [(span.name, span.error) for span in spans] == [("snapshot.build", "")] * 2
    for node in ("node-a", "node-b"):
        artifact = world.artifact(node)
        assert artifact.phase is ArtifactPhase.READY
        (span,) = [one for one in spans if one.attributes["snapstart.node"] == node]
        assert span.context == context_of(world.snapshot, artifact)
        assert span.end_ns >= span.start_ns
    counted = [step for step in world.steps if isinstance(step, Count) and step.about is not None]
    assert {step.metric for step in counted} == {Metric.BUILD_TASKS}


def test_a_build_that_failed_says_why_and_the_next_attempt_is_another_span() -> None:
    world = made_world(Policy(is_traced=True))
    world.agents.failures = {"node-a": ["no KVM"]}
    world.settle()
    world.now += timedelta(hours=1)
    world.settle()
    spans = [one for one in ended(world) if one.attributes["snapstart.node"] == "node-a"]
    assert [bool(span.error) for span in spans] == [True, False]
    assert "no KVM" in spans[0].error
    assert spans[0].context.trace_id == spans[1].context.trace_id
    assert spans[0].context.span_id != spans[1].context.span_id
