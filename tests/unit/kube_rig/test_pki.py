"""The certificates of a test cluster are such as its parts accept."""

from __future__ import annotations

import ipaddress
import json
import ssl
import stat
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from tests.kube import kubeconfig
from tests.kube.identity import Identities
from tests.kube.pki import Authority


def test_a_serving_certificate_is_for_names_and_addresses(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.serving("one", ["localhost", "10.1.0.1", "fd00::1"])
    found = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    addresses = names.get_values_for_type(x509.IPAddress)
    assert addresses == [ipaddress.ip_address("10.1.0.1"), ipaddress.ip_address("fd00::1")]
    found.verify_directly_issued_by(
        x509.load_pem_x509_certificate(authority.certificate.read_bytes())
    )


def test_a_client_certificate_carries_user_with_groups(tmp_path: Path) -> None:
    pair = Authority(tmp_path).client("me", ["one", "two"], file="me")
    subject = x509.load_pem_x509_certificate(pair.certificate.read_bytes()).subject
    groups = [word.value for word in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    assert groups == ["one", "two"]
    assert subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "me"
    ssl.create_default_context().load_cert_chain(pair.certificate, pair.key)


def test_keys_and_kubeconfigs_are_for_their_owner_alone(tmp_path: Path) -> None:
    identities = Identities(tmp_path, "https://127.0.0.1:1", [])
    secrets = [*tmp_path.glob("*.key"), identities.for_user("system:node:a", ["system:nodes"])]
    for path in secrets:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_kubeconfig_needs_no_other_file(tmp_path: Path) -> None:
    user = {"token": "secret"}
    path = kubeconfig.write(tmp_path / "config", "https://one:1", b"pem", user, namespace="here")
    config = json.loads(path.read_text())
    assert config["users"] == [{"name": "user", "user": user}]
    assert config["clusters"][0]["cluster"]["server"] == "https://one:1"
    assert config["contexts"][0]["context"]["namespace"] == "here"
