from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from controlplane.errors import ConfigError
from controlplane.sessions.pki import KeyPair, make_authority, make_serving
from controlplane.sessions.serving import CertificateFiles, ServingContext

AUTHORITY = make_authority(datetime.now(UTC))


def pair() -> KeyPair:
    return make_serving(AUTHORITY, datetime.now(UTC), ["localhost"])


def put(directory: Path, one: KeyPair) -> None:
    (directory / "tls.crt").write_bytes(one.certificate_pem)
    (directory / "tls.key").write_bytes(one.key_pem)


def test_the_same_certificate_is_not_loaded_twice() -> None:
    serving, one = ServingContext(), pair()
    assert serving.load(one.certificate_pem, one.key_pem)
    assert not serving.load(one.certificate_pem, one.key_pem)


def test_a_key_that_does_not_fit_leaves_the_old_one_in_place() -> None:
    serving, one, other = ServingContext(), pair(), pair()
    serving.load(one.certificate_pem, one.key_pem)
    with pytest.raises(ConfigError, match="load the webhooks' serving certificate"):
        serving.load(other.certificate_pem, one.key_pem)
    assert not serving.load(one.certificate_pem, one.key_pem)


@pytest.mark.parametrize("junk", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\n"])
def test_junk_is_an_error_of_the_operator(junk: bytes) -> None:
    serving = ServingContext()
    with pytest.raises(ConfigError):
        serving.load(junk, junk)
    assert not serving.is_loaded


def test_files_are_loaded_when_they_change(tmp_path: Path) -> None:
    serving = ServingContext()
    files = CertificateFiles(tmp_path, serving)
    put(tmp_path, pair())
    assert files.reload()
    assert not files.reload()
    put(tmp_path, pair())
    assert files.reload()


def test_a_change_that_is_half_done_is_taken_later(tmp_path: Path) -> None:
    files = CertificateFiles(tmp_path, ServingContext())
    one, other = pair(), pair()
    put(tmp_path, one)
    files.reload()
    (tmp_path / "tls.crt").write_bytes(other.certificate_pem)
    with pytest.raises(ConfigError):
        files.reload()
    (tmp_path / "tls.key").write_bytes(other.key_pem)
    assert files.reload()


def test_a_mounted_secret_that_swaps_its_link_is_followed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        put(tmp_path / name, pair())
    link = tmp_path / "data"
    link.symlink_to("one")
    files = CertificateFiles(link, ServingContext())
    assert files.reload()
    (tmp_path / "new").symlink_to("two")
    os.replace(tmp_path / "new", link)
    assert files.reload()


def test_files_that_are_missing_name_their_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=str(tmp_path)):
        CertificateFiles(tmp_path, ServingContext()).reload()
