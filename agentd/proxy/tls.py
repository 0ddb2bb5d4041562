"""Hold the TLS context of new connections, whose files somebody else renews."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import structlog

from agentd.errors import ConfigError, ErrorCode

Stamp = tuple[tuple[int, int, int], ...]


class TlsFiles:
    """A certificate with its key, perhaps the authorities of callers.

    Args: client_ca: None: callers show no certificate.
    Raises: ConfigError CONFIG_INVALID: they cannot be served with.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        # Looked at before: a change meanwhile is seen by the next call.
        self._stamp = self._look()
        self._context = self._load()

    def context(self) -> ssl.SSLContext:
        """For a connection that begins now, of the files as they are; blocks for them.

        Files that do not fit together, as in the middle of a change, leave the former ones in use.
        """
        stamp = self._look()
        if stamp == self._stamp:
            return self._context
        self._stamp = stamp
        try:
            self._context = self._load()
        except ConfigError as exc:
            structlog.get_logger().warning("proxy.tls.failed", error=str(exc), instead="kept")
        return self._context

    def _look(self) -> Stamp | None:
        paths = [self._certificate, self._key, *filter(None, [self._client_ca])]
        try:
            facts = [os.stat(path) for path in paths]
        except OSError:
            return None
        return tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in facts)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            # Without a password OpenSSL would ask a terminal for one.
            context.load_cert_chain(self._certificate, self._key, password="")
            if self._client_ca is not None:
                context.load_verify_locations(self._client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
            raise ConfigError(
                ErrorCode.CONFIG_INVALID,
                f"loading the admin proxy's certificate {str(self._certificate)!r} with "
                f"{str(self._key)!r}, authorities {str(self._client_ca)!r}: {exc}",
                hint="give PEM files, the key unencrypted and of that certificate",
            ) from exc
        return context
