"""Show the whole thing: image, cold start, template, forks, identity, memory, a report.

make demo            a table, then build/demo/report.html
make demo JSON=1     and one JSON object as the last line
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import Progress

from agentd.cli.report import render_report
from agentd.cli.report_table import compare_starts, facts_table
from agentd.cli.tables import print_table
from agentd.client.calls import status
from agentd.errors import SnapStartError
from agentd.image import Image, ImageSpec, ProgressEvent, build_image
from agentd.units import MIB
from agentd.wire import api
from agentd.wire.demo import DemoResult, Identity, Sample, Stages
from bench.bare_fork import NUMPY_REQUEST, BareTemplate
from bench.forks import Start, start_session, start_together
from bench.identity import read_identity
from bench.machine import ROOT, describe_machine
from bench.node import Node

TEMPLATE = "python"
MEMORY_MIB = 512
OUTPUT = ROOT / "build" / "demo"
IMAGES = ROOT / "build" / "images"

# Errors go to the same place as progress: standard output is the result's alone.
console = Console(stderr=True)


def build_with_progress(spec: ImageSpec) -> Image:
    """Build the guest image, or find it built."""
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("guest image", total=None)

        def show(event: ProgressEvent) -> None:
            progress.update(
                task, description=f"guest image: {event.stage}", completed=event.done,
                total=event.total or None,
            )  # fmt: skip

        return build_image(spec, cache_dir=IMAGES, progress=show)


@contextmanager
def step(text: str) -> Iterator[None]:
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
    node: Node, bare: BareTemplate, count: int
) -> tuple[list[Sample], list[Stages], list[Sample]]:
    """Fork through agentd and without it, in turn, so that both see the same machine."""
    forks, stages, floor = [], [], []
    for _ in range(count):
        start = start_session(node, TEMPLATE)
        start.sandbox.kill()
        forks.append(start.sample)
        if start.stages is not None:
            stages.append(start.stages)
        machine, sample = bare.fork(NUMPY_REQUEST)
        machine.kill()
        floor.append(Sample(ms=sample.total_ms, started_at=sample.started_at))
    return forks, stages, floor


def check_isolation(starts: list[Start]) -> None:
    """Leave something in one fork, look for it in all others. Raises: AssertionError."""
    first, *others = (start.sandbox for start in starts)
    first.run_code("secret = 1; open('/workspace/secret', 'w').write('x')")
    first.run_code("import os; os.environ['SECRET'] = '1'")
    for other in others:
        seen = other.run_code(
            "import os; ('secret' in globals(), os.path.exists('/workspace/secret'), "
            "'SECRET' in os.environ)"
        )
        if seen.text != "(False, False, False)":
            raise AssertionError(f"{other!r} sees what another fork did: {seen.text}")


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


def run_demo(*, forks: int, together: int, cold: int) -> DemoResult:
    """Everything, in order. Raises: SnapStartError."""
    image = build_with_progress(ImageSpec())
    console.print(f"[green]done[/] guest image {image.key[:12]}")
    with Node(IMAGES, MACHINES__MEMORY_MIB=str(MEMORY_MIB)) as node:
        facts = node.send(status())
        with step("template: boot, warm, prove clean, freeze, seal"):
            node.build_template(TEMPLATE, str(image.directory), memory_mib=MEMORY_MIB)
        with step(f"{cold} cold starts"):
            cold_ms = measure_cold(node, cold)
        bare = BareTemplate(image.directory, qemu="qemu-system-x86_64", accel=facts.accel)
        with step(f"{forks} forks one after another, each beside a bare one"), bare:
            fork_ms, stages, bare_ms = measure_forks(node, bare, forks)
        with step(f"{together} forks at once: isolation, identity, memory"):
            many, wall_ms, identities, usages, rss = measure_together(node, together)
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
        machine=describe_machine(facts.engine_version),
        commands=["make demo"],
        notes=[f"each sample runs {NUMPY_REQUEST!r} in a session that did not exist before"],
    )


def publish(result: DemoResult) -> Path:
    """Write the page with its raw samples; returns the page."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "samples.json").write_bytes(msgspec.json.encode(result))
    page = OUTPUT / "report.html"
    page.write_text(render_report(result), encoding="utf-8")
    return page


def show(result: DemoResult, page: Path) -> None:
    """The tables for people."""
    print_table(compare_starts(result))
    print_table(facts_table(result))
    print(f"report: {page.relative_to(ROOT)}")


def main() -> int:
    """Exit status: 0, or that of the error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--forks", type=int, default=20)
    parser.add_argument("--together", type=int, default=8)
    parser.add_argument("--cold", type=int, default=3)
    args = parser.parse_args()
    try:
        result = run_demo(forks=args.forks, together=args.together, cold=args.cold)
    except SnapStartError as exc:
        console.print(f"[red]error:[/] {exc.message}")
        if exc.hint:
            console.print(f"hint: {exc.hint}")
        return exc.code.exit_code
    show(result, publish(result))
    if args.json:
        print(msgspec.json.encode(result).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
