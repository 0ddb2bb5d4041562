"""Keys and tokens as a router has them."""

from __future__ import annotations

import functools
import time

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


@functools.cache
def make_key(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """One private key for each name; making one takes long."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def public_pem(key: rsa.RSAPrivateKey) -> str:
    """What a Pod carries of it."""
    encoded = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return encoded.decode()


def make_token(key: rsa.RSAPrivateKey, ends_in_s: float = 600) -> str:
    """A bearer token that ends then."""
    return jwt.encode({"exp": int(time.time() + ends_in_s)}, key, algorithm="RS256")
