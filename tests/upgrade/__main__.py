"""Replace every program under load, to another build and back: `make test-upgrade`."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from agentd.image import ImageSpec, build_image
from bench.demo import IMAGES
from bench.target import run_target

from .builds import Build, other_build, this_build
from .control import run_control
from .node import run_node
from .pagers import run_pagers

_CONTROL, _CONTROL_OTHER = "control plane", "control plane, the other build's agent"
_BAD = ("failures", "lost", "leaks", "wrong")


@dataclass(frozen=True)
class Part:
    """One program's result, and whether it was replaced as often as was asked."""

    name: str
    tally: Any
    asked: int

    @property
    def has_failed(self) -> bool:
        """Anything failed, was lost, was left, or did not happen."""
        found = dataclasses.asdict(self.tally)
        return any(found.get(name) for name in _BAD) or self.tally.replaced != self.asked


def main() -> int:
    """Returns: 0 if nothing failed, nothing was lost, nothing is left."""
    parser = argparse.ArgumentParser(prog="python -m tests.upgrade", description=__doc__)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--machines", type=int, default=8, help="of the page server")
    parser.add_argument("--replacements", type=int, default=20, help="of agentd, the page server")
    parser.add_argument(
        "--control", type=int, default=5, help="of the control plane; 0: no cluster"
    )
    parser.add_argument("--revision", help="the other build; the newest release unless given")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args()
    return run_target(lambda: _run(options), as_json=options.json)


def _run(options: argparse.Namespace) -> int:
    err = Console(stderr=True)
    builds = (this_build(), other_build(options.revision))
    err.print(f"between {builds[0].name} and {builds[1].name}", markup=False)
    parts = []
    for name in ("page server", "agentd", _CONTROL, _CONTROL_OTHER):
        if name in (_CONTROL, _CONTROL_OTHER) and not options.control:
            continue
        err.print(f"{name} ...")
        parts.append(_part(name, options, builds))
        err.print(str(parts[-1].tally), markup=False)
    for part in parts:
        print(f"{part.name}: {'FAILED' if part.has_failed else 'ok'} {part.tally}")
    if options.json:
        found = {part.name: dataclasses.asdict(part.tally) for part in parts}
        print(json.dumps({"builds": [one.name for one in builds], **found}))
    return int(any(part.has_failed for part in parts))


def _part(name: str, options: argparse.Namespace, builds: tuple[Build, Build]) -> Part:
    times = options.replacements
    if name == "page server":
        tally = run_pagers(builds, machines=options.machines, replacements=times)
        return Part(name, asyncio.run(tally), times)
    image = build_image(ImageSpec(), cache_dir=IMAGES)
    if name == "agentd":
        found = run_node(image, builds, sessions=options.sessions, replacements=times)
        return Part(name, found, times)
    agent = builds[1] if name == _CONTROL_OTHER else builds[0]
    running = run_control(image, builds, agent=agent, running=4, replacements=options.control)
    return Part(name, running, options.control)


if __name__ == "__main__":
    sys.exit(main())
