"""Give runs of the suites their turns, so that only one of them measures at a time.

Somebody else's work on the machine lasts for seconds and doubles times; a turn lasts for a tenth of
a second. So what falls on one run falls on the other.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence

from bench.suites.turns import TURN


def take_turns(links: Sequence[socket.socket], draw: random.Random) -> None:
    """Until all are gone. The lot says who is first, anew each time. links: to TurnsPlugin."""
    left = [link for link in links if _asks(link)]
    while left:
        left = [link for link in draw.sample(left, len(left)) if _give(link)]


def _give(link: socket.socket) -> bool:
    """Returns whether it asks for another turn, once this one is over."""
    try:
        link.sendall(TURN)
    except OSError:
        return False
    return _asks(link)


def _asks(link: socket.socket) -> bool:
    try:
        return link.recv(1) == TURN
    except OSError:
        return False
