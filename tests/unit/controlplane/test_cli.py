from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from controlplane.cli import main, root


def test_config_check_prints_what_is_valid_toml(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text("[http]\nport = 9000\n")
    result = CliRunner().invoke(root, ["config", "check", "--config", str(file)])
    assert result.exit_code == 0
    assert tomllib.loads(result.output)["http"]["port"] == 9000


def test_a_mistake_in_the_settings_is_one_line_and_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.toml"
    file.write_text("[http]\nprot = 9000\n")
    monkeypatch.setattr(
        "sys.argv", ["snapstart-controlplane", "config", "check", "--config", str(file)]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 11
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("words", [["serve"], ["config", "check"], ["config", "check", "--json"]])
def test_the_stores_password_is_never_written(tmp_path: Path, words: list[str]) -> None:
    secret = "planted-6d1f0b"
    environ = {
        "PATH": "/usr/bin:/bin",
        "REDIS_ADDR": "127.0.0.1:1",
        "REDIS_PASSWORD": secret,
        "KUBECONFIG": str(tmp_path / "none"),
        "SNAPSTART_CONTROLPLANE_LOG__LEVEL": "debug",
    }
    done = subprocess.run(
        [sys.executable, "-m", "controlplane.cli", *words],
        env=environ, capture_output=True, text=True, timeout=50, check=False,
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert secret not in done.stdout + done.stderr
