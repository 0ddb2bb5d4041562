"""The examples that are kept are what the settings make, complete, and true."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from agentd.settings import (
    ENV_PREFIX,
    Settings,
    example_env_file,
    example_file,
    load_settings,
    read_settings,
)
from agentd.typed_settings import Group, describe, example_toml
from agentd.typed_settings.example import comments
from controlplane.cli import root as controlplane_command
from controlplane.settings import Settings as ControlPlaneSettings
from controlplane.settings import load_settings as load_controlplane_settings

DEPLOY = Path(__file__).parents[3] / "deploy"
PROGRAMS = pytest.mark.parametrize(
    "settings", [Settings, ControlPlaneSettings], ids=["agentd", "controlplane"]
)


def test_the_kept_examples_are_those_that_the_settings_make() -> None:
    again = "make it again with `agentd config example` or `snapstart-controlplane config example`"
    assert (DEPLOY / "agentd.toml").read_text() == example_file(), again
    assert (DEPLOY / "agentd.env").read_text() == example_env_file(), again


def test_the_control_planes_kept_example_is_what_its_command_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    controlplane_command.main(["config", "example"], standalone_mode=False)
    assert capsys.readouterr().out == (DEPLOY / "controlplane.toml").read_text()


@PROGRAMS
def test_every_setting_has_words_for_operators(settings: type[Group]) -> None:
    silent = [
        f"{group.name}.{field}"
        for group in msgspec.structs.fields(settings)
        for field in group.type.__struct_fields__
        if not comments(group.type).get(field)
    ]
    assert silent == []


def uncommented(text: str) -> str:
    """With every setting in force, but for those that have no default."""
    lines = (line for line in text.splitlines() if "# not set" not in line)
    return "\n".join(re.sub(r"^#(?=\w+ = |SNAPSTART)", "", line) for line in lines)


def test_all_that_the_example_says_is_what_holds_without_it(tmp_path: Path) -> None:
    file = tmp_path / "agentd.toml"
    file.write_text(uncommented(example_file()))
    assert sum(map(len, tomllib.loads(file.read_text()).values())) > 50
    assert load_settings(file, {}, uid=0) == load_settings(None, {}, uid=0)
    file.write_text(uncommented(example_toml(ControlPlaneSettings, "head")))
    assert load_controlplane_settings(file, {}) == ControlPlaneSettings()


def test_the_examples_variables_are_settings_and_say_the_defaults() -> None:
    lines = [line for line in uncommented(example_env_file()).splitlines() if line[:1] != "#"]
    environ = dict(line.split("=", 1) for line in lines if line and not line.endswith("="))
    assert len(environ) > 50
    assert all(name.startswith(ENV_PREFIX) for name in environ)
    assert load_settings(None, environ, uid=0) == load_settings(None, {}, uid=0)


def test_an_example_used_as_it_is_changes_nothing(tmp_path: Path) -> None:
    reading = read_settings(DEPLOY / "agentd.toml", {}, uid=0)
    assert reading.problems == ()
    assert {origin.kind for origin in reading.origins.values()} == {"default"}
    assert describe(reading.settings) == describe(load_settings(None, {}, uid=0))
