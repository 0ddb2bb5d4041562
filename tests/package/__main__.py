"""Build wheel and sdist from a clean clone, then install, use, remove both on a clean Debian.

make test-package            takes about ten minutes
make test-package JSON=1     and one JSON object as the last line
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.target import run_target
from tests.package.journey import SDIST, WHEEL, Kind, walk
from tests.package.made import Made, make
from tests.package.root import debian_root


def try_kind(made: Made, kind: Kind) -> dict[str, Any]:
    """One form of the package on a Debian of its own."""
    print(f"{kind.name}: on a Debian with {', '.join(kind.debian)}", file=sys.stderr)
    with debian_root(made.index) as root:
        facts = walk(root, made, kind)
    print(f"{kind.name}: doctor told {facts['told']}; left behind: {facts['left']}")
    return facts


def run(*, as_json: bool) -> int:
    """Raises: PermanentError at the first thing that is not so."""
    with tempfile.TemporaryDirectory(prefix="snapstart-dist-") as scratch:
        made = make(Path(scratch))
        print(f"built {made.version}: {made.wheel.name}, {made.sdist.name}")
        for file in (made.wheel, made.sdist):
            file.rename(made.index / file.name)
        found = [try_kind(made, kind) for kind in (WHEEL, SDIST)]
    if as_json:
        print(json.dumps({"version": made.version, "kinds": found, "exit_status": 0}))
    return 0


def main() -> int:
    """Exit status: 0, or that of the error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    args = parser.parse_args()
    return run_target(lambda: run(as_json=args.json), as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
