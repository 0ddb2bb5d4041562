#!/usr/bin/python3.11 -I
"""PID 1 of the outer machine: bring it up as our guests do, run drive.py, power off."""

import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path

from agentd.guest import boot, sysapi

DRIVE_DEADLINE_S = 540  # then it is off, even if nobody is left who watches


def open_kvm_to_its_group() -> None:
    """What Debian's udev rules do (50-udev-default.rules)."""
    groups = (line.split(":") for line in Path("/etc/group").read_text().splitlines())
    os.chown("/dev/kvm", 0, next(int(fields[2]) for fields in groups if fields[0] == "kvm"))
    os.chmod("/dev/kvm", 0o660)


def run_drive() -> None:
    """Reaps orphans meanwhile: machines outlive the daemon that started them."""
    signal.alarm(DRIVE_DEADLINE_S)
    environment = {"PATH": "/usr/bin:/usr/sbin", "LANG": "C.UTF-8"}
    drive = subprocess.Popen([sys.executable, "/opt/drive.py"], env=environment)
    while os.wait()[0] != drive.pid:
        pass


def give_up(*_: object) -> None:
    """The alarm rang."""
    raise TimeoutError(f"drive.py did not end within {DRIVE_DEADLINE_S} s")


def main() -> None:
    """Whatever happens, the machine is off at the end."""
    signal.signal(signal.SIGALRM, give_up)
    try:
        boot.bring_up()
        open_kvm_to_its_group()
        run_drive()
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    sysapi.power_off()


main()
