"""Ask a server on the loopback address whether it is ready."""

from __future__ import annotations

import http.client
import json
import socket
import ssl

from tests.kube.flags import LOOPBACK

TIMEOUT_S = 5.0


def answers(port: int, path: str, *, is_tls: bool = False) -> bool:
    """Whether GET `path` gives 200, from whoever holds the port: no certificate is checked."""
    link: http.client.HTTPConnection
    if is_tls:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        link = http.client.HTTPSConnection(LOOPBACK, port, timeout=TIMEOUT_S, context=context)
    else:
        link = http.client.HTTPConnection(LOOPBACK, port, timeout=TIMEOUT_S)
    try:
        link.request("GET", path)
        return link.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        link.close()


def is_etcd_healthy(port: int) -> bool:
    """Whether etcd has a leader, which it says of itself at /health."""
    link = http.client.HTTPConnection(LOOPBACK, port, timeout=TIMEOUT_S)
    try:
        link.request("GET", "/health")
        return bool(json.loads(link.getresponse().read()).get("health") == "true")
    except (OSError, ValueError, http.client.HTTPException):
        return False
    finally:
        link.close()


def listens(port: int) -> bool:
    """Whether somebody accepts connections on the port."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=TIMEOUT_S):
            return True
    except OSError:
        return False
