"""Choose TCP ports that stay free while nobody listens on them."""

from __future__ import annotations

import random
import socket

# Below the range that the kernel gives to outgoing connections (32768 by default): a server that is
# restarted finds its port free again.
FIRST, LAST = 20000, 29999


def choose(count: int) -> list[int]:
    """Different ports on which nothing listens on any address now.

    Raises: OSError when there are not `count` of them among 1000 tried.
    """
    found: list[int] = []
    for port in random.sample(range(FIRST, LAST + 1), 1000):
        if _is_free(port):
            found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"no {count} free ports between {FIRST} and {LAST}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True
