"""Hold the certificate that new TLS connections are served with."""

from __future__ import annotations

import os
import ssl
from datetime import datetime
from pathlib import Path

from cryptography import x509

from controlplane.errors import ConfigError


class ServingContext:
    """One TLS context for the life of the server; connections that exist keep what they have."""

    def __init__(self) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._loaded: tuple[bytes, bytes] | None = None
        self.not_after: datetime | None = None  # of what is served

    @property
    def is_loaded(self) -> bool:
        """There is something to serve with."""
        return self._loaded is not None

    def load(self, certificate_pem: bytes, key_pem: bytes) -> bool:
        """Serve new connections with this; False if it is what is served already.

        Raises: ConfigError if they do not belong together; then the old one stays.
        """
        if self._loaded == (certificate_pem, key_pem):
            return False
        # A context is spoilt by a load that fails halfway, so another one tries first.
        _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate_pem, key_pem)
        _load(self.context, certificate_pem, key_pem)
        self._loaded = (certificate_pem, key_pem)
        self.not_after = x509.load_pem_x509_certificates(certificate_pem)[0].not_valid_after_utc
        return True


def _load(context: ssl.SSLContext, certificate_pem: bytes, key_pem: bytes) -> None:
    """The library reads files alone: this one is in memory, and never on a disk."""
    fd = os.memfd_create("serving", os.MFD_CLOEXEC)
    try:
        os.write(fd, certificate_pem + b"\n" + key_pem)
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    except (ssl.SSLError, OSError) as exc:
        raise ConfigError(
            f"load the webhooks' serving certificate: {exc}",
            hint="put a certificate with its unencrypted key there",
        ) from exc
    finally:
        os.close(fd)


class CertificateFiles:
    """A certificate that somebody else renews, such as cert-manager in a mounted Secret."""

    def __init__(self, directory: Path, serving: ServingContext) -> None:
        self._directory = directory
        self._serving = serving

    def reload(self) -> bool:
        """Serve what is there now; False if it has not changed. Raises: ConfigError.

        A mounted Secret changes all its files at once by a link to their directory; reading through
        the link twice may still meet both sides of the change, which does not load, and is tried
        again by the next call.
        """
        try:
            certificate = (self._directory / "tls.crt").read_bytes()
            key = (self._directory / "tls.key").read_bytes()
        except OSError as exc:
            raise ConfigError(
                f"read the webhooks' serving certificate from {self._directory}: {exc}",
                hint="mount tls.crt with tls.key there, or let the program make its own",
            ) from exc
        return self._serving.load(certificate, key)
