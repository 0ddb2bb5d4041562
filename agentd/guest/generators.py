"""Make every user-space random generator of this process start anew from kernel entropy.

After a fork of the VM all copies hold the same generator states. Seeds come from getrandom(2)
only; when it fails the exception ends the restore.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from agentd.guest.hooks import call_hook

Reseed = Callable[[], object]

_MT19937_WORDS = 624

_registered: list[Reseed] = []


def register_generator(reseed: Reseed) -> Reseed:
    """Have `reseed()` called in every process after a fork, after the generators known here.

    For image authors: a library with a random pool of its own needs this. Usable as a decorator.
    """
    _registered.append(reseed)
    return reseed


def registered_names() -> list[str]:
    """Qualified names of the registered functions, for reports."""
    return [getattr(reseed, "__qualname__", repr(reseed)) for reseed in _registered]


def reseed_all() -> None:
    """Reseed the generators of the imported libraries, then the registered ones."""
    for module_name, reseed in _KNOWN:
        module = sys.modules.get(module_name)
        if module is not None:
            reseed(module)
    for registered in _registered:
        call_hook(registered)


def _reseed_random(module: Any) -> None:
    module.seed(int.from_bytes(os.urandom(128), "big"))


def _reseed_numpy(module: Any) -> None:
    # The whole state at once: seed() runs array code whose first use is slow after a restore.
    words = memoryview(os.urandom(4 * _MT19937_WORDS)).cast("I").tolist()
    module.set_state(("MT19937", words, _MT19937_WORDS))


def _reseed_uuid(module: Any) -> None:
    # The C generator keeps node and clock sequence in static variables that nothing resets.
    module._generate_time_safe = None
    module._last_timestamp = None
    module._node = int.from_bytes(os.urandom(6), "big") | (1 << 40)


def _reset_tempfile(module: Any) -> None:
    module._name_sequence = None


def _reseed_openssl(module: Any) -> None:
    module.RAND_add(os.urandom(48), 48.0)


_KNOWN: tuple[tuple[str, Callable[[Any], None]], ...] = (
    ("random", _reseed_random),
    ("numpy.random", _reseed_numpy),
    ("uuid", _reseed_uuid),
    ("tempfile", _reset_tempfile),
    ("_ssl", _reseed_openssl),
)
