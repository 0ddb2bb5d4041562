"""`agentd config` shows settings, origins, problems."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentd.cli.agentd import root
from controlplane.cli import root as controlplane_root

BAD = """
[admission]
max_sesions = 3
[log]
level = "loud"
format = 1
[lifetime]
max_ttl_s = 1.0
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "agentd.toml"
    path.write_text(text)
    return str(path)


def test_check_prints_toml_with_origins_and_succeeds(tmp_path: Path) -> None:
    file = write(tmp_path, "[admission]\nmax_sessions = 3\n")
    environ = {"SNAPSTART_LOG__LEVEL": "debug"}
    result = CliRunner().invoke(root, ["config", "check", "--config", file], env=environ)
    assert result.exit_code == 0
    assert tomllib.loads(result.output)["admission"]["max_sessions"] == 3
    assert f"max_sessions = 3  # {file}" in result.output
    assert 'level = "debug"  # SNAPSTART_LOG__LEVEL' in result.output
    assert "queued_forks = 128  # default" in result.output


def test_check_names_every_problem_on_a_line_of_its_own(tmp_path: Path) -> None:
    result = CliRunner().invoke(root, ["config", "check", "--config", write(tmp_path, BAD)])
    assert result.exit_code == 11
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 3, "log.level follows in a group that is known to be wrong"
    assert all(line.startswith("agentd: reading settings from ") for line in lines)
    for said in ("max_sesions", "log.format", "lifetime.default_ttl_s exceeds"):
        assert said in result.stderr


@pytest.mark.parametrize("text", ["", BAD], ids=["good", "bad"])
def test_check_tells_programs_the_same(tmp_path: Path, text: str) -> None:
    argv = ["config", "check", "--json", "--config", write(tmp_path, text)]
    result = CliRunner().invoke(root, argv)
    told = json.loads(result.stdout)
    assert told["ok"] is (result.exit_code == 0) is (not told["problems"])
    assert len(told["problems"]) == (3 if text else 0)
    assert {"key", "value", "origin", "from"} == set(told["settings"][0])


def test_the_control_planes_check_looks_at_the_stores_variables_too() -> None:
    environ = {"REDIS_ADDR": "redis:6379", "SNAPSTART_CONTROLPLANE_HTTP__PORT": "x"}
    result = CliRunner().invoke(controlplane_root, ["config", "check", "--json"], env=environ)
    assert result.exit_code == 11
    told = json.loads(result.stdout)["problems"]
    assert [one["where"] for one in told] == [
        "environment variable SNAPSTART_CONTROLPLANE_HTTP__PORT",
        "the environment",
    ]
    assert "REDIS_PASSWORD" in told[1]["what"]
