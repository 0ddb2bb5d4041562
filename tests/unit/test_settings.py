"""Settings are complete, or refused with the key and the place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agentd.errors import ConfigError, ErrorCode
from agentd.settings import Stop, describe, load_settings


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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("[admission]\nmax_sesions = 3\n", "max_sesions", id="unknown key"),
        pytest.param("[admision]\n", "admision", id="unknown group"),
        pytest.param('[admission]\nmax_sessions = "3"\n', "max_sessions", id="wrong type"),
        pytest.param("[admission\n", "not TOML", id="bad syntax"),
        pytest.param('[monitor]\naccel = "xen"\n', "accel", id="unknown choice"),
        pytest.param('[api]\nsocket_mode = "999"\n', "socket_mode", id="bad mode"),
        pytest.param("[deadlines]\nfork_s = 0.0\n", "fork_s", id="zero deadline"),
        pytest.param("[deadlines]\nfork_s = nan\n", "fork_s", id="not a number"),
        pytest.param("[lifetime]\nmax_ttl_s = 1.0\n", "lifetime", id="default above maximum"),
        pytest.param('[paths]\nrun_dir = "run"\n', "not absolute", id="relative path"),
        pytest.param('[pager]\nenabled = "on"\n', "pager.enabled", id="unknown pager mode"),
        pytest.param('[pager]\nbinary = "snap-pager"\n', "pager.binary", id="relative binary"),
        pytest.param(
            f'[pager]\ncontrol_socket = "/{"x" * 110}"\n', "control_socket", id="long pager socket"
        ),
        pytest.param(
            f'[pager]\njournal_dir = "/{"x" * 101}"\n', "journal_dir", id="long journal directory"
        ),
        pytest.param('[pager]\nkuasar_dir = "/k"\n', "need each other", id="kuasar half set"),
        pytest.param("[pager]\nreaders = 65\n", "at most 64 readers", id="too many readers"),
        pytest.param("[pager]\nreaders = 0\n", "pager.readers", id="no reader"),
        pytest.param("[pager]\nrecord_forks = 65\n", "at most 64", id="too many records"),
        pytest.param(f'[paths]\nrun_dir = "/{"x" * 80}"\n', "107", id="too long for sockets"),
    ],
)
def test_a_bad_file_is_refused_naming_key_and_file(tmp_path: Path, text: str, said: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(ConfigError, match=said) as caught:
        load_settings(file, {}, uid=0)
    assert caught.value.code is ErrorCode.CONFIG_INVALID
    assert str(file) in caught.value.message


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


SERVED = '[node]\nenabled = true\nname = "a"\n[kuasar]\nenabled = true\n[proxy]\nenabled = true\n'
POD = {"POD_IP": "10.42.0.17", "KUASAR_PROXY_TOKEN": "s3cret"}


def test_the_proxy_is_off_and_then_needs_nothing() -> None:
    assert not load_settings(None, {}, uid=0).proxy.enabled


def test_the_proxy_is_enabled_without_its_token_becoming_a_setting(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, SERVED), POD, uid=0)
    assert (settings.proxy.enabled, settings.proxy.port) == (True, 9090)
    assert "s3cret" not in str(describe(settings))
    file = write(tmp_path, f'{SERVED}token_file = "/run/secrets/token"\n')
    assert load_settings(file, {"POD_IP": "10.42.0.17"}, uid=0).proxy.token_file


@pytest.mark.parametrize(
    ("text", "environ", "said"),
    [
        pytest.param(SERVED, {"KUASAR_PROXY_TOKEN": "x"}, "POD_IP", id="no address"),
        pytest.param(SERVED, {**POD, "POD_IP": ""}, "POD_IP", id="empty address"),
        pytest.param(SERVED, {"POD_IP": "10.42.0.17"}, "a token", id="no token"),
        pytest.param(SERVED, {**POD, "KUASAR_PROXY_TOKEN": ""}, "a token", id="empty token"),
        pytest.param("[proxy]\nenabled = true\n", POD, "enable node and kuasar", id="alone"),
        pytest.param(f"{SERVED}port = 65536\n", POD, "65535", id="no port"),
        pytest.param(f"{SERVED}port = 0\n", POD, "proxy.port", id="port 0"),
        pytest.param(f'{SERVED}key_file = "/k"\n', POD, "need each other", id="key alone"),
        pytest.param(f'{SERVED}certificate_file = "/c"\n', POD, "need each other", id="no key"),
        pytest.param(f'{SERVED}client_ca_file = "/c"\n', POD, "all three", id="authority alone"),
    ],
)
def test_a_proxy_that_could_not_be_guarded_is_refused(
    tmp_path: Path, text: str, environ: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        load_settings(write(tmp_path, text), environ, uid=0)
    assert caught.value.code is ErrorCode.CONFIG_INVALID


def test_systemd_waits_longer_than_a_stop_may_take() -> None:
    """Else it kills the daemon in the middle of what the daemon still may do."""
    unit = (Path(__file__).parents[2] / "systemd/agentd.service").read_text()
    found = re.search(r"^TimeoutStopSec=(\d+)s$", unit, re.M)
    assert found is not None
    assert int(found[1]) > Stop().longest_s
    assert f"{Stop().longest_s:g} s" in unit, "the comment says how long that is"
