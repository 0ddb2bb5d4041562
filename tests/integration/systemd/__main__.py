"""Run the outer machine under systemd, whole or in part, and print what it tells.

python -m tests.integration.systemd --skip upgrade,kill,hang,memory,stop

The tests judge a whole run (`make test-systemd`); this is for a look at some of it.
Without `pager` there is no `remove` either: it takes the page server away under a machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

from tests.integration.kvm.outer_machine import run_outer_machine
from tests.integration.systemd.inside.drive_units import SKIP
from tests.integration.systemd.root_image import build_root_image
from tests.integration.systemd.test_systemd import BUILD, DEADLINE_S


def main() -> int:
    """Exit status: 1 when a part of it failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--skip", default="", help="parts, or what the agent suffers, with commas")
    options = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    image = build_root_image(BUILD)
    partial = dataclasses.replace(image, cmdline=f"{image.cmdline} {SKIP}{options.skip}")
    told = run_outer_machine(partial, BUILD / "console.log", deadline_s=DEADLINE_S)
    print(json.dumps(told, indent=1))
    return int("failure" in told)


if __name__ == "__main__":
    sys.exit(main())
