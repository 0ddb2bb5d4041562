"""Build wheel and sdist from a clean clone, then install, use, remove both on a clean Debian.

make test-package            takes about ten minutes
make test-package JSON=1     and one JSON object as the last line
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench.target import run_target
from tests.package.journey import SDIST, WHEEL, Kind, walk
from tests.package.made import Made, fetch_dependencies, make
from tests.package.root import debian_root

KINDS: Final = {kind.name: kind for kind in (WHEEL, SDIST)}


def try_kind(made: Made, kind: Kind) -> dict[str, Any]:
    """One form of the package on a Debian of its own."""
    print(f"{kind.name}: on a clean Debian", file=sys.stderr)
    with debian_root(made.directory) as root:
        facts = walk(root, made.version, kind)
    print(f"{kind.name}: doctor told {facts['told']}; left behind: {facts['left']}")
    return facts


def build(directory: Path) -> Made:
    """Make a release, tell its files."""
    made = make(directory)
    print(f"built {made.version}: {', '.join(sorted(file.name for file in directory.iterdir()))}")
    return made


def run(only_build: Path | None, kinds: Sequence[Kind], *, as_json: bool) -> int:
    """Raises: PermanentError at the first thing that is not so."""
    if only_build is not None:
        found, made = [], build(only_build)
    else:
        with tempfile.TemporaryDirectory(prefix="snapstart-dist-") as scratch:
            made = build(Path(scratch))
            fetch_dependencies(made.directory)
            found = [try_kind(made, kind) for kind in kinds]
    if as_json:
        print(json.dumps({"version": made.version, "kinds": found, "exit_status": 0}))
    return 0


def main() -> int:
    """Exit status: 0, or that of the error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--only-build", type=Path, help="write the release there, try nothing")
    parser.add_argument("--kind", choices=list(KINDS), help="try this form alone")
    args = parser.parse_args()
    kinds = [kind for name, kind in KINDS.items() if args.kind in (None, name)]
    return run_target(lambda: run(args.only_build, kinds, as_json=args.json), as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
