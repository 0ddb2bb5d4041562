"""The image commands on a cache in a temporary directory."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from agentd.cli.snapctl import snapctl
from agentd.errors import ErrorCode
from agentd.image.manifest import FORMAT_VERSION, FileRecord, ImageManifest

KEY = "ab" * 32


def run(cache: Path, *args: str) -> Result:
    return CliRunner().invoke(snapctl, ["image", *args, "--cache-dir", str(cache)])


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with one image whose files have the right sizes."""
    for digit in ("ab", "ac"):
        directory = tmp_path / "images" / (digit * 32)
        directory.mkdir(parents=True)
        (directory / "kernel").write_bytes(b"kernel")
        (directory / "initrd").write_bytes(b"initrd")
        manifest = ImageManifest(
            FORMAT_VERSION, digit * 32, "2026-01-02T03:04:05+00:00",
            FileRecord("kernel", "0" * 64, 6), FileRecord("initrd", "0" * 64, 6),
            "6.1", (), ("numpy",), "3.11", ("quiet",), (), ("compressed",),
        )  # fmt: skip
        (directory / "image.json").write_bytes(msgspec.json.encode(manifest))
    return tmp_path


def test_images_are_listed(cache: Path) -> None:
    assert KEY[:12] in run(cache, "list").stdout
    listed = json.loads(run(cache, "list", "--json").stdout)
    assert len(listed["images"]) == 2
    assert "snapctl image build" in run(cache / "empty", "list").stdout


def test_a_unique_beginning_of_the_key_is_enough(cache: Path) -> None:
    assert "compressed" in run(cache, "show", "ab").stdout
    shown = json.loads(run(cache, "show", "ab", "--json").stdout)
    assert shown["manifest"]["key"] == KEY
    assert run(cache, "show", str(cache / "images" / KEY)).exit_code == 0
    for key in ("a", "ff"):
        assert run(cache, "show", key).exit_code == 2


def test_a_damaged_image_is_not_shown_as_one(cache: Path) -> None:
    (cache / "images" / KEY / "kernel").write_bytes(b"short")
    shown = run(cache, "show", str(cache / "images" / KEY))
    assert shown.exit_code == ErrorCode.IMAGE_INVALID.exit_code


@pytest.mark.parametrize(
    "wish",
    [("--package", "-o=evil"), ("--preload", "os;x"), ("--kernel-package", "A B")],
    ids=["package", "preload", "kernel"],
)
def test_names_that_are_none_are_refused_before_anything_is_done(
    tmp_path: Path, wish: tuple[str, str]
) -> None:
    done = run(tmp_path / "cache", "build", *wish)
    assert done.exit_code in (ErrorCode.NAME_INVALID.exit_code, ErrorCode.REQUEST_INVALID.exit_code)
    assert not (tmp_path / "cache").exists()


def test_images_are_removed_all_or_none(cache: Path) -> None:
    assert run(cache, "rm", "ab", "ff").exit_code == 2
    assert len(list((cache / "images").iterdir())) == 2
    removed = json.loads(run(cache, "rm", "ab", KEY, "--json").stdout)
    assert removed == {"removed": [KEY]}
    assert [path.name for path in (cache / "images").iterdir()] == ["ac" * 32]


def test_half_a_removed_image_is_never_listed(cache: Path) -> None:
    (cache / "images" / KEY).rename(cache / "images" / f".{KEY}.removed-1")
    assert len(json.loads(run(cache, "list", "--json").stdout)["images"]) == 1
