"""What a node does for an object of its cluster is in the trace that the object names."""

from __future__ import annotations

from pathlib import Path

from agentd.tracing import Span
from controlplane.api import names
from tests.adapters.node.world import KEY, SANDBOXES, World, new_cluster, running_world

BUILD, START = "4bf92f3577b34da6a3ce929d0e0e4736", "5bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
GATE = {"env": [{"name": "AGENTCUBE_SESSION_GATE", "value": "true"}]}


def carrying(trace_id: str, **annotations: str) -> dict[str, dict[str, str]]:
    """Metadata of an object that names a span of that trace."""
    return {"annotations": {names.TRACEPARENT: f"00-{trace_id}-{SPAN}-01", **annotations}}


def named(world: World, name: str) -> Span:
    (found,) = [span for span in world.trace.spans if span.name == name]
    return found


def is_below(span: Span, trace_id: str) -> bool:
    return (span.context.trace_id, span.parent_id) == (trace_id, SPAN)


async def test_build_and_start_are_in_the_traces_of_their_objects(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        snapshot = world.snapshot()
        owner = world.build_sandbox(snapshot)
        world.pod("build-1", owner=owner, container=GATE, metadata=carrying(BUILD))
        await world.until_ready("build-1")
        world.task(snapshot, metadata=carrying(BUILD))
        await world.until_task("Ready")
        sandbox = world.make(SANDBOXES, "session-1", spec={"podTemplate": {"spec": {}}})
        metadata = carrying(START, **{names.SNAPSHOT_KEY: KEY})
        world.pod("session-1", owner=sandbox, metadata=metadata)
        await world.until_ready("session-1")
        for name in ("template.hold", "template.build", "task.create"):
            assert is_below(named(world, name), BUILD), name
        assert is_below(named(world, "session.start"), START)
        assert named(world, "warm").parent_id == named(world, "template.hold").context.span_id


async def test_an_annotation_that_names_no_span_harms_nothing(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        world.pod("one", metadata={"annotations": {names.TRACEPARENT: "00-nonsense"}})
        await world.until_ready("one")
        assert named(world, "session.start").parent_id == ""
