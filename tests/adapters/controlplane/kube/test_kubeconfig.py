"""Kubeconfig files are merged as kubectl does; no key stays on disk."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest

from controlplane.errors import ConfigError
from controlplane.kube.kubeconfig import read_kubeconfig


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_the_first_file_that_names_something_wins(tmp_path: Path) -> None:
    one = _write(tmp_path / "one", "clusters: [{name: a, cluster: {server: first}}]")
    two = _write(
        tmp_path / "two",
        "current-context: c\nclusters: [{name: a, cluster: {server: second}}, {name: b}]",
    )
    found = read_kubeconfig(f"{one}:{tmp_path / 'missing'}:{two}", tmp_path)
    assert found["current-context"] == "c"
    assert [entry["name"] for entry in found["clusters"]] == ["a", "b"]
    assert found["clusters"][0]["cluster"] == {"server": "first"}


def test_inline_keys_become_files_for_their_owner_alone(tmp_path: Path) -> None:
    data = base64.b64encode(b"secret").decode()
    path = _write(tmp_path / "config", f"users: [{{name: u, user: {{client-key-data: {data}}}}}]")
    directory = tmp_path / "keys"
    directory.mkdir()
    user = read_kubeconfig(str(path), directory)["users"][0]["user"]
    assert user.keys() == {"client-key"}
    key = Path(user["client-key"])
    assert key.read_bytes() == b"secret"
    assert key.parent == directory
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_relative_paths_belong_to_their_file(tmp_path: Path) -> None:
    path = _write(
        tmp_path / "deep" / "config",
        "users: [{name: u, user: {tokenFile: t, client-key: sub/k}}]\n"
        "clusters: [{name: c, cluster: {certificate-authority: /abs/ca}}]",
    )
    found = read_kubeconfig(str(path), tmp_path)
    deep = tmp_path / "deep"
    user = found["users"][0]["user"]
    assert user == {"tokenFile": str(deep / "t"), "client-key": str(deep / "sub/k")}
    assert found["clusters"][0]["cluster"]["certificate-authority"] == "/abs/ca"


@pytest.mark.parametrize(
    "text",
    ["{", "clusters: [{cluster: {}}]", "users: [{name: u, user: {client-key-data: '%%'}}]"],
)
def test_broken_files_are_configuration_errors(tmp_path: Path, text: str) -> None:
    path = _write(tmp_path / "config", text)
    with pytest.raises(ConfigError):
        read_kubeconfig(str(path), tmp_path)


def test_no_file_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no kubeconfig"):
        read_kubeconfig(str(tmp_path / "missing"), tmp_path)
