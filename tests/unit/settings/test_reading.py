"""Settings come from defaults, file, environment, or are refused with the key and the place."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentd.errors import ConfigError
from agentd.settings import describe, load_settings


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "agentd.toml"
    path.write_text(text)
    return path


def test_defaults_are_those_of_the_user() -> None:
    root = load_settings(None, {}, uid=0)
    assert str(root.socket) == "/run/snapstart/agentd.sock"
    assert root.socket_mode == 0o660
    user = load_settings(None, {"HOME": "/home/a", "XDG_RUNTIME_DIR": "/run/user/1"}, uid=1)
    assert str(user.data_dir) == "/home/a/.local/state/snapstart"
    assert str(user.socket) == "/run/user/1/snapstart/agentd.sock"


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, '[admission]\nmax_sessions = 3\n[monitor]\naccel = "tcg"\n')
    environ = {"SNAPSTART_ADMISSION__MAX_SESSIONS": "5", "SNAPSTART_SOCKET": "not ours"}
    settings = load_settings(file, environ, uid=0)
    assert (settings.admission.max_sessions, settings.monitor.accel) == (5, "tcg")
    assert describe(settings)["admission"]["max_sessions"] == 5


def test_the_page_servers_socket_is_beside_the_daemons_unless_it_is_named(tmp_path: Path) -> None:
    assert str(load_settings(None, {}, uid=0).pager_socket) == "/run/snapstart/pager.sock"
    file = write(tmp_path, '[pager]\ncontrol_socket = "/run/p.sock"\nrecord_forks = 0\n')
    settings = load_settings(file, {}, uid=0)
    assert (str(settings.pager_socket), settings.pager.record_forks) == ("/run/p.sock", 0)


def test_an_unknown_variable_is_refused() -> None:
    with pytest.raises(ConfigError, match="SNAPSTART_API__SOKCET"):
        load_settings(None, {"SNAPSTART_API__SOKCET": "/x"}, uid=0)


def test_the_control_planes_variables_are_left_alone() -> None:
    environ = {
        "SNAPSTART_CONTROLPLANE_LOG__LEVEL": "debug",
        "SNAPSTART_CONTROLPLANE_SNAPSHOTS__BUILD_S": "1",
        "SNAPSTART_LOG__LEVEL": "error",
    }
    assert load_settings(None, environ, uid=0).log.level == "error"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml"):
        load_settings(tmp_path / "none.toml", {}, uid=0)
