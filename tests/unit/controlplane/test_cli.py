from __future__ import annotations

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
