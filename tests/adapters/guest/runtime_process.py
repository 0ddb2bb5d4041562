"""Run a real supervisor outside a VM: `python runtime_process.py CHANNEL_FD SETTINGS_JSON`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from agentd.guest import executions
from agentd.guest.effects import SystemEffects
from agentd.guest.port import Port
from agentd.guest.prepare import Plan
from agentd.guest.settings import Settings
from agentd.guest.streams import Hub
from agentd.guest.supervisor import Supervisor

RECORD = Path(json.loads(sys.argv[2])["workspace"]).parent / "effects"


class RecordedEffects(SystemEffects):
    """Every effect, written down; the machine's clock and identity stay as they are."""

    def __getattribute__(self, name: str) -> Any:
        effect = super().__getattribute__(name)
        if name.startswith("_"):
            return effect

        def recorded(plan: Plan) -> None:
            with RECORD.open("a") as file:
                file.write(f"{name} {plan.wall_clock_ns}\n")
            if name != "set_clock":
                effect(plan)

        return recorded


def main() -> None:
    members = json.loads(sys.argv[2])
    executions.OBEY_S = members.pop("obey_s", executions.OBEY_S)
    is_recorded = members.pop("record_effects", False)
    for name in ("preload", "file_roots"):
        members[name] = tuple(members.get(name, ()))
    supervisor = Supervisor(Settings(**members), RecordedEffects if is_recorded else SystemEffects)
    fd = int(sys.argv[1])
    os.set_blocking(fd, False)
    try:
        supervisor.start()
        supervisor.wait_for_session()
        port = Port(supervisor.loop, fd, Hub(supervisor.services()))
        supervisor.loop.on_batch_end = port.flush
        supervisor.checkpoint.take_baseline()
        supervisor.loop.run()
        port.flush()
    finally:
        supervisor.close()
    print(supervisor.exit_reason, file=sys.stderr)
    sys.exit(supervisor.exit_status)


main()
