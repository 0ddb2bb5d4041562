"""Make, read, write the webhooks' certificates."""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from controlplane.errors import InvariantError
from controlplane.sessions.certificates import (
    AUTHORITY_LIFE,
    SERVING_LIFE,
    SKEW,
    Certificate,
    CertificateStep,
    ObservedCertificates,
)

BUNDLE = "ca.crt"
_UNREADABLE = (ValueError, TypeError, binascii.Error, UnsupportedAlgorithm, x509.ExtensionNotFound)


@dataclass(frozen=True)
class KeyPair:
    """A certificate with its private key; the key is never shown."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def certificate_pem(self) -> bytes:
        """The certificate alone."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The private key, unencrypted."""
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


@dataclass(frozen=True)
class CertificateBox:
    """All that the Secret holds; what cannot be read is absent."""

    authority: KeyPair | None = None
    coming: KeyPair | None = None
    serving: KeyPair | None = None
    bundle: tuple[x509.Certificate, ...] = ()

    @property
    def bundle_pem(self) -> bytes:
        """What API servers have to trust."""
        return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in self.bundle)


def read_box(data: Mapping[str, str]) -> CertificateBox:
    """data: the Secret's, base64."""
    return CertificateBox(
        _read_pair(data, "authority"),
        _read_pair(data, "coming"),
        _read_pair(data, "tls"),
        _read_bundle(data.get(BUNDLE, "")),
    )


def write_box(box: CertificateBox) -> dict[str, str]:
    """The Secret's data, base64."""
    found: dict[str, bytes] = {BUNDLE: box.bundle_pem}
    pairs = {"authority": box.authority, "coming": box.coming, "tls": box.serving}
    for name, pair in pairs.items():
        if pair is not None:
            found[f"{name}.crt"], found[f"{name}.key"] = pair.certificate_pem, pair.key_pem
    return {name: base64.b64encode(value).decode() for name, value in found.items()}


def observe(box: CertificateBox) -> ObservedCertificates:
    """What a plan is made from."""

    def seen(pair: KeyPair | None) -> Certificate | None:
        return describe(pair.certificate) if pair else None

    return ObservedCertificates(
        seen(box.authority),
        seen(box.coming),
        seen(box.serving),
        tuple(describe(one) for one in box.bundle),
    )


def describe(certificate: x509.Certificate) -> Certificate:
    """Raises: x509.ExtensionNotFound if it does not name its issuer's key."""
    extensions = certificate.extensions
    own = extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    issuer = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        addresses = map(str, names.get_values_for_type(x509.IPAddress))
        known = frozenset((*names.get_values_for_type(x509.DNSName), *addresses))
    except x509.ExtensionNotFound:
        known = frozenset()
    return Certificate(
        own.hex(),
        (issuer or b"").hex(),
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        known,
    )


def perform(
    box: CertificateBox, step: CertificateStep, now: datetime, dns_names: frozenset[str]
) -> CertificateBox:
    """The box after one step."""
    match step:
        case CertificateStep.MAKE_AUTHORITY:
            made = make_authority(now)
            return replace(box, authority=made, coming=None, bundle=(made.certificate, *box.bundle))
        case CertificateStep.PROMOTE_COMING:
            return replace(box, authority=box.coming, coming=None)
        case CertificateStep.MAKE_COMING:
            made = make_authority(now)
            return replace(box, coming=made, bundle=(made.certificate, *box.bundle))
        case CertificateStep.MAKE_SERVING:
            if box.authority is None:
                raise InvariantError("make a serving certificate: there is no authority")
            return replace(box, serving=make_serving(box.authority, now, sorted(dns_names)))
        case CertificateStep.TRIM_BUNDLE:
            kept = tuple(one for one in box.bundle if now < one.not_valid_after_utc)
            return replace(box, bundle=kept)


def make_authority(now: datetime, life: timedelta = AUTHORITY_LIFE) -> KeyPair:
    """A new authority that may sign servers' certificates, nothing else."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject("snapstart-webhook-ca")
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)
    builder = (
        _dated(subject, key, now, now + life)
        .issuer_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(issuer, critical=False)
    )
    return KeyPair(builder.sign(key, hashes.SHA256()), key)


def make_serving(
    authority: KeyPair, now: datetime, dns_names: Sequence[str], life: timedelta = SERVING_LIFE
) -> KeyPair:
    """A server's certificate for these names; it never outlives its authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.certificate
    identity = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    names = x509.SubjectAlternativeName([_general_name(name) for name in dns_names])
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    builder = (
        _dated(_subject("snapstart-webhook"), key, now, min(now + life, issuer.not_valid_after_utc))
        .issuer_name(issuer.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=False)
        .add_extension(names, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identity), critical=False
        )
    )
    return KeyPair(builder.sign(authority.key, hashes.SHA256()), key)


def canonical_name(name: str) -> str:
    """A server's name as it is read back from a certificate: addresses have many spellings."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name


def _general_name(name: str) -> x509.GeneralName:
    """An address is verified as one, never as a name (RFC 9525)."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _dated(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _read_pair(data: Mapping[str, str], name: str) -> KeyPair | None:
    try:
        certificate = x509.load_pem_x509_certificate(_decoded(data[f"{name}.crt"]))
        key = serialization.load_pem_private_key(_decoded(data[f"{name}.key"]), None)
        describe(certificate)
    except (KeyError, *_UNREADABLE):
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        return None
    return KeyPair(certificate, key) if certificate.public_key() == key.public_key() else None


def _read_bundle(text: str) -> tuple[x509.Certificate, ...]:
    try:
        found = x509.load_pem_x509_certificates(_decoded(text)) if text else []
        for one in found:
            describe(one)
    except _UNREADABLE:
        return ()
    return tuple(found)


def _decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
