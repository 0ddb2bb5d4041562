"""Run the outer machine once: emulated, with AMD's virtualisation extension in its processor."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.integration.kvm.outer_image import OuterImage

BEGIN, END = "<report>", "</report>"  # around the JSON on the console, see inside/drive.py
MEMORY_MIB = 3000
_TAIL_CHARS = 4000


def argv(qemu: str, image: OuterImage, console: Path) -> list[str]:
    """The command line: everything is emulated, so this needs no privilege and no hardware."""
    return [
        *(qemu, "-M", "pc", "-accel", "tcg,thread=multi", "-cpu", "max,+svm"),
        *("-smp", "2", "-m", str(MEMORY_MIB)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-no-reboot"),
        *("-chardev", f"file,id=console,path={console}", "-serial", "chardev:console"),
        *("-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", image.cmdline),
    ]


def run_outer_machine(image: OuterImage, console: Path, *, deadline_s: float) -> dict[str, Any]:
    """Boot it, wait until it powers itself off, read its report.

    Args: console: file for what it prints, which may be followed meanwhile.
    Raises: AssertionError with the console's end when there is no report in time.
    """
    qemu = shutil.which("qemu-system-x86_64")
    assert qemu is not None, "qemu-system-x86_64 is not in PATH: install qemu-system-x86"
    console.unlink(missing_ok=True)
    try:
        done = subprocess.run(
            argv(qemu, image, console),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=deadline_s,
            check=False,
        )
        how = f"ended with {done.returncode}: {done.stdout}{done.stderr}"
    except subprocess.TimeoutExpired:
        how = f"did not end within {deadline_s:g} s"
    text = console.read_text(errors="replace") if console.exists() else ""
    report = parse_report(text)
    assert report is not None, f"the outer machine {how}; its console: {text[-_TAIL_CHARS:]}"
    return report


def parse_report(console: str) -> dict[str, Any] | None:
    """The JSON between the markers, None when it is not there whole."""
    _, begun, rest = console.partition(BEGIN)
    body, ended, _ = rest.partition(END)
    return json.loads(body) if begun and ended else None
