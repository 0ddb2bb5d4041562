"""What cannot be is refused, naming key and file."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentd.errors import ConfigError, ErrorCode
from agentd.settings import describe, load_settings


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "agentd.toml"
    path.write_text(text)
    return path


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
