from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.errors import ConfigError
from controlplane.settings import Settings, describe, load_settings


def test_defaults_need_no_file() -> None:
    assert load_settings(None, {}) == Settings()


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    file = tmp_path / "controlplane.toml"
    file.write_text("[http]\nport = 9000\n[snapshots]\nretired_grace_s = 5.0\n")
    settings = load_settings(file, {"SNAPSTART_CONTROLPLANE_HTTP__PORT": "9001"})
    assert settings.http.port == 9001
    assert settings.snapshots.retired_grace_s == 5.0


def test_a_pod_says_who_it_is() -> None:
    settings = load_settings(None, {"POD_NAMESPACE": "snap", "POD_NAME": "controlplane-0"})
    assert (settings.program.namespace, settings.program.identity) == ("snap", "controlplane-0")


def test_a_list_is_separated_by_commas_in_the_environment() -> None:
    environ = {"SNAPSTART_CONTROLPLANE_WEBHOOKS__INTENT_CALLERS": "a, b ,"}
    assert load_settings(None, environ).webhooks.intent_callers == ("a", "b")


def test_a_path_may_come_from_the_environment() -> None:
    environ = {"SNAPSTART_CONTROLPLANE_STORE__SQLITE_PATH": "/var/lib/x.db"}
    assert load_settings(None, environ).store.sqlite_path == Path("/var/lib/x.db")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[htttp]\nport = 1\n", "htttp"),
        ("[http]\nprot = 1\n", "prot"),
        ('[http]\nport = "x"\n', "port"),
        ("[leader]\nretry_s = 20.0\n", "retry_s < deadline_s"),
        ("[snapshots]\nbuild_s = -1.0\n", "build_s"),
        ('[log]\nlevel = "loud"\n', "level"),
        ("[http\n", "TOML"),
    ],
    ids=["group", "field", "type", "leader", "negative", "level", "syntax"],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "controlplane.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_settings(file, {})


def test_a_misspelt_variable_is_named() -> None:
    with pytest.raises(ConfigError, match="HTTP__PROT"):
        load_settings(None, {"SNAPSTART_CONTROLPLANE_HTTP__PROT": "1"})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml"):
        load_settings(tmp_path / "none.toml", {})


def test_what_is_shown_can_be_read_again() -> None:
    shown = describe(load_settings(None, {"SNAPSTART_CONTROLPLANE_STORE__SQLITE_PATH": "/x.db"}))
    assert shown["store"]["sqlite_path"] == "/x.db"
