"""Show it on a real Kubernetes: from `kubectl apply` to code that runs in a forked machine.

make demo-cluster           tables
make demo-cluster JSON=1    and one JSON object as the last line
"""

from __future__ import annotations

import argparse
import sys

import msgspec

from agentd.cli.demo import build_with_progress
from agentd.cli.tables import new_console, print_table
from agentd.errors import ErrorCode, PermanentError, TransientError
from bench.cluster.network import require_root
from bench.cluster.result import ClusterResult
from bench.cluster.show import all_tables
from bench.cluster.story import Plan, Story, compose
from bench.cluster.verdict import find_surprises
from bench.cluster.world import SANDBOX_VERSION, World
from bench.demo import IMAGES
from bench.target import run_target
from tests.kube.assets import PARTS, Assets, NoClusterError
from tests.kube.process import ServerDiedError

# A node that does not answer counts as lost soon, so that nobody has to wait for it; no session
# waits here for a snapshot that is deleted.
SETTINGS = {"SNAPSHOTS__NODE_GRACE_S": "5", "SNAPSHOTS__DELETION_GRACE_S": "0"}

console = new_console(sys.stderr)


def run_demo(plan: Plan) -> ClusterResult:
    """Everything, on a cluster that is gone afterwards. Raises: SnapStartError."""
    require_root()
    try:
        find_programs(Assets())
        image = build_with_progress(IMAGES)
        world = World(image, IMAGES, settings=SETTINGS, say=_say)
        with world:
            kubernetes = world.cluster.api.get("/version")["gitVersion"]
            told = Story(world, plan, console).tell()
        assert world.leaks is not None
        return compose(world, told, world.leaks, kubernetes)
    except NoClusterError as exc:
        raise PermanentError(
            ErrorCode.CONFIG_INVALID, f"having a Kubernetes: {exc}", hint="see tests/kube"
        ) from exc
    except ServerDiedError as exc:
        raise TransientError(ErrorCode.CLUSTER_UNREACHABLE, str(exc)) from exc


def find_programs(assets: Assets) -> None:
    """Have a Kubernetes; minutes when it has to be built. Raises: NoClusterError."""
    for part in PARTS:
        assets.part(part)
    assets.sandbox(SANDBOX_VERSION)
    assets.agentcube_crds()


def _say(text: str) -> None:
    console.print(f"[dim]starting[/] {text}", soft_wrap=True)


def show(result: ClusterResult) -> list[str]:
    """The tables for people. Returns: what was not as it should be."""
    for table in all_tables(result):
        print_table(table)
    surprises = find_surprises(result)
    for text in surprises:
        console.print(f"[bold red]unexpected[/] {text}", soft_wrap=True)
    return surprises


def main() -> int:
    """Exit status: 0, 1 when something was not as it should be, or that of the error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--sessions", type=int, default=Plan.sessions)
    args = parser.parse_args()

    def run() -> int:
        result = run_demo(Plan(sessions=args.sessions))
        surprises = show(result)
        if args.json:
            sys.stderr.flush()
            print(msgspec.json.encode(result).decode())
        return 1 if surprises else 0

    return run_target(run, as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
