"""Check the public key by which a session's HTTP interface judges its callers."""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from agentd.errors import ErrorCode, UsageError

# The variable in which a Pod names the key.
AUTH_KEY_ENV: Final = "PICOD_AUTH_PUBLIC_KEY"
KEY_MIN_BITS: Final = 2048  # RFC 7518, sections 3.3 and 3.5
_MAX_CHARS: Final = 16384
_HEAD: Final = "-----BEGIN PUBLIC KEY-----"  # RFC 7468, section 13


def check_auth_key(text: str) -> None:
    """The guest refuses with the same rules; here the answer comes before a machine is started.

    Raises: UsageError REQUEST_INVALID for what is no PEM of an RSA key of 2048 bits or more.
    """
    if len(text) > _MAX_CHARS:
        raise _invalid(f"it has {len(text)} of {_MAX_CHARS} characters")
    if not text.strip().startswith(_HEAD):
        raise _invalid(f"it does not start with {_HEAD!r}")
    try:
        key = load_pem_public_key(text.strip().encode())
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise _invalid(f"it cannot be read: {exc}") from exc
    if not isinstance(key, RSAPublicKey):
        raise _invalid("it is not an RSA key")
    if key.key_size < KEY_MIN_BITS:
        raise _invalid(f"it has {key.key_size} of {KEY_MIN_BITS} bits")


def _invalid(problem: str) -> UsageError:
    return UsageError(
        ErrorCode.REQUEST_INVALID,
        f"reading the public key of {AUTH_KEY_ENV}: {problem}",
        hint="give the PEM of an RSA public key (PKIX)",
    )
