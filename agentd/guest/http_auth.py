"""Decide whether a request carries a bearer token that the configured key has signed."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from contextlib import suppress
from importlib import import_module
from typing import Any

LEEWAY_S = 60
# RFC 7518, sections 3.3 and 3.5
KEY_MIN_BITS = 2048
_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]


class KeyRefusedError(ValueError):
    """No token can be checked by this key, or none by this image; the message says why."""


def _libraries() -> tuple[Any, Any, Any]:
    """PyJWT, and of cryptography what reads keys and what is an RSA key."""
    try:
        return (
            import_module("jwt"),
            import_module("cryptography.hazmat.primitives.serialization"),
            import_module("cryptography.hazmat.primitives.asymmetric.rsa"),
        )
    except Exception as exc:  # a damaged installation raises anything
        raise KeyRefusedError(
            f"a key is set, but this image cannot check tokens: {exc or type(exc).__name__}"
        ) from exc


def load_key(public_key_pem: str) -> Any:
    """The key that a PEM holds, in the terms of the image's `cryptography`.

    Raises: KeyRefusedError when it is no RSA key of a sufficient length, or the image has no PyJWT
    or no cryptography.
    """
    _jwt, pem, rsa = _libraries()
    try:
        key = pem.load_pem_public_key(public_key_pem.encode("utf-8"))
    except Exception as exc:  # ValueError, UnsupportedAlgorithm, UnicodeEncodeError
        raise KeyRefusedError(f"the key that is set is not a PEM public key: {exc}") from exc
    if not isinstance(key, rsa.RSAPublicKey):
        raise KeyRefusedError("the key that is set is not an RSA key")
    if key.key_size < KEY_MIN_BITS:
        raise KeyRefusedError(f"the key that is set has {key.key_size} of {KEY_MIN_BITS} bits")
    return key


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
        self.key = public_key_pem
        self._loaded: Any = None
        self._problem = ""
        if public_key_pem:
            try:
                self._loaded = load_key(public_key_pem)
            except KeyRefusedError as exc:
                self._problem = str(exc)

    def check(self, header: str | None) -> None:
        """Raises AuthError: 401 for the caller's fault, 503 when this image cannot tell."""
        if not self.key:
            return
        if self._problem:
            raise AuthError(503, self._problem)
        if header is None:
            raise AuthError(401, "Missing Authorization header")
        scheme, _, token = header.partition(" ")
        if scheme != "Bearer" or not token:
            raise AuthError(401, "Invalid Authorization header format")
        jwt, _pem, _rsa = _libraries()
        try:
            jwt.decode(
                token,
                self._loaded,
                algorithms=_ALGORITHMS,
                leeway=LEEWAY_S,
                options={"require": ["exp"], "verify_aud": False},
            )
        except jwt.PyJWTError as exc:
            raise AuthError(401, f"Invalid token: {exc}") from exc


def warm() -> None:
    """Refuse a token by a key of no meaning, where the image has the libraries: they load much on
    first use, which every fork of this process then has."""
    with suppress(KeyRefusedError, AuthError):
        _jwt, pem, rsa = _libraries()
        key = rsa.RSAPublicNumbers(65537, 1 << KEY_MIN_BITS - 1 | 1).public_key()
        encoded = key.public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
        head = urlsafe_b64encode(b'{"alg":"RS256","typ":"JWT"}').decode("ascii").rstrip("=")
        Authenticator(encoded.decode("ascii")).check(f"Bearer {head}.e30.{'A' * 342}")
