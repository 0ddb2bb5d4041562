"""What becomes of machines when the page server dies or is replaced."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import msgspec

from agentd.pager.client import PagerClient
from tests.integration.kvm.inside.drive import Stages
from tests.integration.systemd.inside.standin import (
    CONTROL,
    IMAGE,
    PAGES,
    Machine,
    answers,
    ask,
)
from tests.integration.systemd.inside.units import (
    MACHINES,
    PAGER,
    ctl,
    kill_main,
    next_main,
    refusal,
    show,
    status_of,
    until,
)


def page_server(report: dict[str, Any], stages: Stages) -> None:
    """Its deaths, under machines that hold their userfaultfd, and that do not."""
    Path("/proc/sys/vm/unprivileged_userfaultfd").write_text("1")
    words = ["/opt/standin_image", "--seed", "9", "--pages", str(PAGES), "--zero-share", "0.3"]
    subprocess.run([*words, str(IMAGE)], check=True)
    IMAGE.chmod(0o644)
    ctl("start", "snap-pager.socket")
    report["before_anybody_asked"] = show(PAGER)
    report["hello"] = msgspec.to_builtins(ask(PagerClient(CONTROL).hello(deadline_s=60)))
    holding, giving = Machine("holding"), Machine("giving", "--no-hold")
    stages.ended("memory handed over")
    report["kept_by"] = [holding.kept_by, giving.kept_by]
    report["first"] = [answers(machine) for machine in (holding, giving)]
    stages.ended("memory touched")
    before = report["running"] = show(PAGER)
    report["status"] = status_of(before["MainPID"])
    report["refused"] = refusal("stop", PAGER)
    kill_main(PAGER)
    # Begun while there is none: it waits in its fault.
    giving.begin("verify")
    after = report["after_kill"] = next_main(PAGER, before["MainPID"])
    report["waited"] = giving.end()
    report["second"] = [answers(machine) for machine in (holding, giving)]
    stages.ended("page server killed")
    ctl("kill", "--kill-whom=main", PAGER)
    report["after_end"] = next_main(PAGER, after["MainPID"])
    report["third"] = [answers(machine) for machine in (holding, giving)]
    for machine in (holding, giving):
        machine.close()
    report["machines_unit"] = show(MACHINES)["ActiveState"]
    report["store_at_the_end"] = until_empty()
    stages.ended("page server replaced")


def until_empty() -> int:
    """What the store still holds of machines that are gone."""
    until("an empty store", lambda: show(PAGER)["NFileDescriptorStore"] == 0, 30)
    return int(show(PAGER)["NFileDescriptorStore"])
