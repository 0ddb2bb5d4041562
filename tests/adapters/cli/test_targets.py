"""The Makefile as people use it, without running what takes long."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
RUN_TARGET = ROOT / "deploy" / "run-target"


def run(*argv: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=30, check=False)


def test_make_alone_prints_its_targets() -> None:
    done = run("make")
    assert (done.returncode, done.stderr) == (0, "")
    named = set(re.findall(r"`make ([a-z-]+)[ `]", (ROOT / "README.md").read_text()))
    assert named <= set(re.findall(r"^([a-z-]+) ", done.stdout, re.M))


@pytest.mark.parametrize(
    "target",
    [
        *("demo", "test", "test-kvm", "test-systemd", "bench"),
        *("package", "audit", "test-package", "test-image"),
    ],
)
def test_json_reaches_the_program(target: str) -> None:
    assert "run-target '1' " in run("make", "-n", target, "JSON=1").stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "Makefile").write_text("native:\n\t@echo preparing; test ! -e broken\n")
    return tmp_path


def test_a_program_runs_once_the_checkout_is_prepared(checkout: Path) -> None:
    done = run(str(RUN_TARGET), "1", "sh", "-c", 'echo "$0"; exit 7', cwd=checkout)
    assert (done.returncode, done.stdout) == (7, "--json\n")
    assert "preparing" in done.stderr
    done = run(str(RUN_TARGET), "", "sh", "-c", 'echo "$#"', cwd=checkout)
    assert (done.returncode, done.stdout) == (0, "0\n")


def test_a_checkout_that_cannot_be_prepared_is_the_failure(checkout: Path) -> None:
    (checkout / "broken").touch()
    done = run(str(RUN_TARGET), "1", "false", cwd=checkout)
    found = json.loads(done.stdout)
    assert found["error"]["code"] == "setup_failed"
    assert found["exit_status"] == done.returncode != 0
    assert run(str(RUN_TARGET), "", "false", cwd=checkout).stdout == ""
