"""Judge the age of every certificate that settings name."""

from __future__ import annotations

import base64
import binascii
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from agentd.cli.doctor_checks import Check, Host, Level
from agentd.settings import Settings

_SOON: Final = timedelta(days=14)
_CONTROLPLANE: Final = "etc/snapstart/controlplane.toml"
_DIRECTORY: Final = "SNAPSTART_CONTROLPLANE_WEBHOOKS__CERTIFICATE_DIR"


@dataclass(frozen=True)
class CertificateFacts:
    """One certificate, or what kept it from being read. whose: the setting that names it."""

    whose: str
    place: str
    begins: datetime | None = None
    ends: datetime | None = None
    error: str = ""


def gather_certificates(host: Host, settings: Settings) -> list[CertificateFacts]:
    """The proxy's, its clients' authority, the node's own for its cluster, the webhook's."""
    found = [_read(whose, path) for whose, path in _files(host, settings)]
    return found + _of_kubeconfig(settings, host.environ)


def judge_certificates(found: list[CertificateFacts], now: datetime) -> Check:
    """The worst of them."""
    name = "certificates"
    if not found:
        hint = "proxy.certificate_file, node.kubeconfig, webhooks.certificate_dir name them"
        return Check(name, Level.SKIP, "settings name none", hint)
    judged = [judge_certificate(one, now) for one in found]
    order = (Level.FAIL, Level.WARN, Level.OK)
    worst = min(judged, key=lambda one: order.index(one.level))
    return Check(name, worst.level, "; ".join(one.detail for one in judged), worst.hint)


def judge_certificate(facts: CertificateFacts, now: datetime) -> Check:
    """One."""
    where = f"{facts.whose} ({facts.place})"
    if facts.error or facts.begins is None or facts.ends is None:
        return Check(where, Level.FAIL, f"{where}: {facts.error}", f"correct {facts.whose}")
    if now >= facts.ends:
        detail = f"{where}: ended {facts.ends:%Y-%m-%d}"
        return Check(where, Level.FAIL, detail, f"renew {facts.place}")
    if now < facts.begins:
        detail = f"{where}: begins only {facts.begins:%Y-%m-%d %H:%M}"
        return Check(where, Level.FAIL, detail, "look at this machine's clock, or wait")
    detail = f"{where}: until {facts.ends:%Y-%m-%d}, {(facts.ends - now).days} days"
    if facts.ends - now < _SOON:
        return Check(where, Level.WARN, detail, f"renew {facts.place}: who does that?")
    return Check(where, Level.OK, detail)


def _files(host: Host, settings: Settings) -> Iterator[tuple[str, Path]]:
    proxy = settings.proxy
    if proxy.certificate_file is not None:
        yield "proxy.certificate_file", proxy.certificate_file
    if proxy.client_ca_file is not None:
        yield "proxy.client_ca_file", proxy.client_ca_file
    directory = _webhook_directory(host)
    if directory:
        yield "webhooks.certificate_dir", Path(directory, "tls.crt")


def _webhook_directory(host: Host) -> str:
    """Of a control plane on this machine, if one is set up here."""
    try:
        table = tomllib.loads(host.read(_CONTROLPLANE))
    except tomllib.TOMLDecodeError:
        table = {}
    group = table.get("webhooks")
    named = group.get("certificate_dir", "") if isinstance(group, dict) else ""
    return str(host.environ.get(_DIRECTORY) or named)


def _read(whose: str, path: Path) -> CertificateFacts:
    try:
        return _decode(whose, str(path), path.read_bytes())
    except OSError as exc:
        return CertificateFacts(whose, str(path), error=str(exc.strerror))


def _decode(whose: str, place: str, pem: bytes) -> CertificateFacts:
    """The leaf, which stands first."""
    from cryptography import x509

    try:
        leaf = x509.load_pem_x509_certificates(pem)[0]
    except (ValueError, IndexError) as exc:
        return CertificateFacts(whose, place, error=f"it holds no certificate: {exc}")
    return CertificateFacts(whose, place, leaf.not_valid_before_utc, leaf.not_valid_after_utc)


def _of_kubeconfig(settings: Settings, environ: Mapping[str, str]) -> list[CertificateFacts]:
    """Client certificates, in the file or beside it."""
    import yaml

    text = settings.node.kubeconfig or (
        environ.get("KUBECONFIG", "") if settings.node.enabled else ""
    )
    path, whose = Path(text.partition(":")[0]), "node.kubeconfig"
    if not text:
        return []
    try:
        body: Any = yaml.safe_load(path.read_text())
        users = [one["user"] for one in body.get("users") or ()]
        return [found for user in users for found in _of_user(whose, path, user)]
    except OSError as exc:
        return [CertificateFacts(whose, str(path), error=str(exc.strerror))]
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, binascii.Error) as exc:
        return [CertificateFacts(whose, str(path), error=f"it cannot be read: {exc!r}")]


def _of_user(whose: str, path: Path, user: Mapping[str, Any]) -> Iterator[CertificateFacts]:
    if data := user.get("client-certificate-data"):
        yield _decode(whose, str(path), base64.b64decode(data))
    elif file := user.get("client-certificate"):
        yield _read(whose, path.parent / file)
