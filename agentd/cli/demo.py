"""Measure cold starts beside forks on a node of one's own: what `snapctl demo` shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from agentd.cli.demo_identity import read_identity
from agentd.cli.demo_machine import describe_machine
from agentd.cli.demo_starts import REQUEST, Start, start_session, start_together
from agentd.cli.private_node import Node
from agentd.cli.progress import StageProgress
from agentd.client.calls import status
from agentd.errors import ErrorCode, PermanentError
from agentd.image import Image, ImageSpec, ProgressEvent, build_image
from agentd.units import MIB
from agentd.wire import api
from agentd.wire.demo import DemoResult, Identity, Sample, Stages

TEMPLATE = "python"
MEMORY_MIB = 512

# Makes, once per run, what takes one sample beside each fork: image, accelerator -> sampler.
Beside = Callable[[Image, str], AbstractContextManager[Callable[[], Sample]]]


@dataclass(frozen=True)
class Plan:
    """What to measure. commands: what was typed, commit: of the program, both for the report."""

    image_cache_dir: Path
    cold: int
    forks: int
    together: int
    commands: Sequence[str]
    commit: str = ""


def build_with_progress(cache_dir: Path, *, is_quiet: bool = False) -> Image:
    """Build the default guest image, or find it built. Raises: SnapStartError."""
    with StageProgress(is_quiet=is_quiet) as bar:

        def show(event: ProgressEvent) -> None:
            bar.update(event.stage, event.done, event.total, event.note)

        return build_image(ImageSpec(), cache_dir=cache_dir, progress=show)


@contextmanager
def step(console: Console, text: str) -> Iterator[None]:
    """Say what is going on while it goes on."""
    with console.status(text):
        yield
    console.print(f"[green]done[/] {text}")


def measure_cold(node: Node, count: int) -> list[Sample]:
    """Boot machines one after another up to their first reply."""
    samples = []
    for _ in range(count):
        start = start_session(node, TEMPLATE, mode=api.SessionMode.COLD)
        start.sandbox.kill()
        samples.append(start.sample)
    return samples


def measure_forks(
    node: Node, count: int, take_beside: Callable[[], Sample] | None
) -> tuple[list[Sample], list[Stages], list[Sample]]:
    """Fork through agentd, each time beside the other sample, so that both see one machine."""
    forks, stages, beside = [], [], []
    for _ in range(count):
        start = start_session(node, TEMPLATE)
        start.sandbox.kill()
        forks.append(start.sample)
        if start.stages is not None:
            stages.append(start.stages)
        if take_beside is not None:
            beside.append(take_beside())
    return forks, stages, beside


def check_isolation(starts: Sequence[Start]) -> None:
    """Leave something in one fork, look for it in all others. Raises: PermanentError."""
    first, *others = (start.sandbox for start in starts)
    first.run_code("secret = 1; open('/workspace/secret', 'w').write('x')")
    first.run_code("import os; os.environ['SECRET'] = '1'")
    for other in others:
        seen = other.run_code(
            "import os; ('secret' in globals(), os.path.exists('/workspace/secret'), "
            "'SECRET' in os.environ)"
        )
        if seen.text != "(False, False, False)":
            raise PermanentError(
                ErrorCode.GUEST_CONTAMINATED,
                f"looking in {other!r} for what another fork did: it sees {seen.text}",
                hint="forks must share nothing; please report this as a defect",
            )


def measure_together(
    node: Node, count: int
) -> tuple[list[Sample], float, list[Identity], list[api.Usage], int]:
    """Fork at once; while all live, ask each who it is, what it costs."""
    starts, wall_ms = start_together(node, TEMPLATE, count)
    try:
        # Before anything else runs in them: what a fork costs is what its first request made.
        usages = [node.usages()[start.sandbox.sandbox_id] for start in starts]
        rss = node.rss_bytes()
        check_isolation(starts)
        identities = [read_identity(start.sandbox) for start in starts]
    finally:
        for start in starts:
            start.sandbox.kill()
    return [start.sample for start in starts], wall_ms, identities, usages, rss


def run_demo(plan: Plan, console: Console, *, beside: Beside | None = None) -> DemoResult:
    """Everything, in order, on a node that is gone afterwards.

    Args: beside: what else to sample in turn with the forks. Raises: SnapStartError.
    """
    image = build_with_progress(plan.image_cache_dir, is_quiet=console.quiet)
    console.print(f"[green]done[/] guest image {image.key[:12]}")
    with Node(plan.image_cache_dir, MACHINES__MEMORY_MIB=str(MEMORY_MIB)) as node:
        facts = node.send(status())
        with step(console, "template: boot, warm, prove clean, freeze, seal"):
            node.build_template(TEMPLATE, str(image.directory), memory_mib=MEMORY_MIB)
        with step(console, f"{plan.cold} cold starts"):
            cold_ms = measure_cold(node, plan.cold)
        sampler = nullcontext() if beside is None else beside(image, facts.accel)
        also = "" if beside is None else ", each beside a bare one"
        with step(console, f"{plan.forks} forks one after another{also}"), sampler as take:
            fork_ms, stages, bare_ms = measure_forks(node, plan.forks, take)
        with step(console, f"{plan.together} forks at once: isolation, identity, memory"):
            many, wall_ms, identities, usages, rss = measure_together(node, plan.together)
    return DemoResult(
        engine=facts.engine,
        accel=facts.accel,
        template=TEMPLATE,
        guest_memory_mib=MEMORY_MIB,
        cold_ms=cold_ms,
        fork_ms=fork_ms,
        bare_fork_ms=bare_ms,
        concurrent_ms=many,
        concurrent_wall_ms=wall_ms,
        private_mib_per_fork=[row.private_bytes / MIB for row in usages],
        shared_mib_per_fork=[(row.rss_bytes - row.private_bytes) / MIB for row in usages],
        agentd_rss_mib=rss / MIB,
        identity=identities,
        stages_ms=stages,
        machine=describe_machine(facts.engine_version, commit=plan.commit),
        commands=list(plan.commands),
        notes=[f"Each sample runs {REQUEST!r} in a session that did not exist before."],
    )
