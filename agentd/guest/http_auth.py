"""Decide whether a request carries a bearer token that the configured key has signed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

LEEWAY_S = 60


class AuthError(Exception):
    """The request is refused.

    Args: status: HTTP status. message: for the caller, without secrets.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Authenticator:
    """Checks JSON Web Tokens (RFC 7519) signed with RSA; without a key everything passes."""

    def __init__(self, public_key_pem: str) -> None:
        self._pem = public_key_pem
        self._jwt: Any = None
        self._problem = ""
        if public_key_pem:
            self._load()

    def _load(self) -> None:
        try:
            jwt: Any = import_module("jwt")
            rsa: Any = import_module("cryptography.hazmat.primitives.asymmetric.rsa")
            pem: Any = import_module("cryptography.hazmat.primitives.serialization")
        except ImportError as exc:
            self._problem = f"a key is set, but this image cannot check tokens: {exc}"
            return
        try:
            key = pem.load_pem_public_key(self._pem.encode("utf-8"))
        except ValueError as exc:
            self._problem = f"the key that is set is not a PEM public key: {exc}"
            return
        if not isinstance(key, rsa.RSAPublicKey):
            self._problem = "the key that is set is not an RSA key"
            return
        self._jwt = jwt

    def check(self, header: str | None) -> None:
        """Raises AuthError: 401 for the caller's fault, 503 when this image cannot tell."""
        if not self._pem:
            return
        if self._problem:
            raise AuthError(503, self._problem)
        if header is None:
            raise AuthError(401, "Missing Authorization header")
        scheme, _, token = header.partition(" ")
        if scheme != "Bearer" or not token:
            raise AuthError(401, "Invalid Authorization header format")
        try:
            self._jwt.decode(
                token,
                self._pem,
                algorithms=["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
                leeway=LEEWAY_S,
                options={"require": ["exp"], "verify_aud": False},
            )
        except self._jwt.PyJWTError as exc:
            raise AuthError(401, f"Invalid token: {exc}") from exc
