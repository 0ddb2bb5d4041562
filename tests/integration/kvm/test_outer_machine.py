"""How the outer machine is run when it misbehaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.kvm.outer_image import OuterImage
from tests.integration.kvm.outer_machine import parse_report, run_outer_machine

# The console's path is in the argument after -chardev.
PRINTS = """#!/bin/sh
for argument; do case "$argument" in *path=*) console="${argument#*path=}" ;; esac; done
"""


@pytest.fixture
def image() -> OuterImage:
    return OuterImage(Path("/nonexistent/vmlinux"), Path("/nonexistent/initrd"), "quiet")


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    program = tmp_path / "qemu-system-x86_64"
    program.touch(0o755)
    return program


def test_a_whole_report_is_read_between_other_output() -> None:
    assert parse_report('drive: 1.0\r\n<report>{"a": 1}</report>\r\npower off') == {"a": 1}


@pytest.mark.parametrize("console", ["", "<report>", '<report>{"a": 1', '{"a": 1}</report>'])
def test_half_a_report_is_none(console: str) -> None:
    assert parse_report(console) is None


def test_a_machine_that_reports_is_believed(qemu: Path, image: OuterImage, tmp_path: Path) -> None:
    qemu.write_text(PRINTS + """echo '<report>{"a": 1}</report>' > "$console"\n""")
    assert run_outer_machine(image, tmp_path / "console", deadline_s=30) == {"a": 1}


def test_a_machine_that_does_not_end_is_killed(
    qemu: Path, image: OuterImage, tmp_path: Path
) -> None:
    qemu.write_text(f"{PRINTS}echo booting > $console\nexec sleep 60\n")
    with pytest.raises(AssertionError, match=r"did not end within 0.5 s; its console: booting"):
        run_outer_machine(image, tmp_path / "console", deadline_s=0.5)


def test_a_machine_that_does_not_start_says_why(
    qemu: Path, image: OuterImage, tmp_path: Path
) -> None:
    qemu.write_text("#!/bin/sh\necho 'no such accelerator' >&2\nexit 1\n")
    (tmp_path / "console").write_text("<report>{}</report> of an earlier run")
    with pytest.raises(AssertionError, match="ended with 1: no such accelerator"):
        run_outer_machine(image, tmp_path / "console", deadline_s=30)
