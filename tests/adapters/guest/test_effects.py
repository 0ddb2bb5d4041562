"""The effects of a session on real files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.adapters.guest.conftest import ROOT

# A process of its own, because the effects keep their files open as long as the runtime lives.
PROGRAM = """
import sys
from agentd.guest.effects import SystemEffects
from agentd.guest.prepare import Plan
from agentd.guest.session import Session
from agentd.guest.settings import Settings

settings = Settings(is_vm=True)
machine_id, boot_id = sys.argv[1:]
effects = SystemEffects(
    settings,
    Session(settings, False, "/"),
    lambda *_: None,
    machine_id_file=machine_id,
    boot_id_file=boot_id,
)
for digit in "ab":
    effects.set_machine_id(Plan(machine_id=digit * 32))
    effects.renew_boot_id(Plan())
"""


@pytest.mark.parametrize("before", ["", "uninitialized\n", "0" * 32 + "\n", "long\n" * 100])
def test_identity_files_are_replaced_whole_whatever_they_held(tmp_path: Path, before: str) -> None:
    machine_id, boot_id = tmp_path / "machine-id", tmp_path / "boot_id"
    machine_id.write_text(before)
    boot_id.write_text(before)
    argv = [sys.executable, "-c", PROGRAM, str(machine_id), str(boot_id)]
    subprocess.run(argv, check=True, cwd=ROOT, timeout=30)
    assert machine_id.read_text() == "b" * 32 + "\n"
    assert [len(part) for part in boot_id.read_text().split("-")] == [8, 4, 4, 4, 13]
