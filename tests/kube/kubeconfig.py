"""Write kubeconfig files that need no other file."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from tests.kube.pki import KeyPair


def encode(url: str, ca: bytes, user: dict[str, str], namespace: str) -> dict[str, Any]:
    """A kubeconfig with one cluster, one user, one context."""
    server = {"server": url, "certificate-authority-data": base64.b64encode(ca).decode()}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": server}],
        "users": [{"name": "user", "user": user}],
        "contexts": [
            {"name": "test", "context": {"cluster": "test", "user": "user", "namespace": namespace}}
        ],
        "current-context": "test",
    }


def certificate_user(pair: KeyPair) -> dict[str, str]:
    """A user known by a client certificate."""
    return {
        "client-certificate-data": base64.b64encode(pair.certificate.read_bytes()).decode(),
        "client-key-data": base64.b64encode(pair.key.read_bytes()).decode(),
    }


def write(
    path: Path, url: str, ca: bytes, user: dict[str, str], *, namespace: str = "default"
) -> Path:
    """Write a kubeconfig for its owner alone; JSON, which is YAML. Returns `path`."""
    path.touch(mode=0o600)
    path.write_text(json.dumps(encode(url, ca, user, namespace), indent=1))
    return path
