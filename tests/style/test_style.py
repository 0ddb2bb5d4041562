"""The rules that a machine can check."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*argv: str) -> None:
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing() -> None:
    run(sys.executable, "-m", "ruff", "check", ".")


def test_the_code_is_formatted() -> None:
    run(sys.executable, "-m", "ruff", "format", "--check", ".")


@pytest.mark.timeout(600)
def test_types_are_strict() -> None:
    run(sys.executable, "-m", "mypy")


def test_imports_point_down() -> None:
    run(str(Path(sys.executable).with_name("lint-imports")))


def test_shell_scripts_parse() -> None:
    for script in (ROOT / "deploy").glob("*"):
        if script.is_file() and script.read_bytes().startswith(b"#!/bin/sh"):
            run("sh", "-n", str(script))


def test_every_module_says_its_responsibility() -> None:
    silent = [
        path
        for path in sorted((ROOT / "agentd").rglob("*.py"))
        if not path.name.endswith("_pb2.py")  # protoc's
        and path.read_text().strip()
        and not path.read_text().lstrip().startswith(('"""', "#!", 'r"""'))
    ]
    assert not silent
