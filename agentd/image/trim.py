"""What Debian packages carry and a guest never reads."""

from __future__ import annotations

import re
from typing import Final

_DROPPED_TREES: Final = (
    "boot",
    "usr/include",
    "usr/share/common-licenses",
    "usr/share/applications",
    "usr/share/bash-completion",
    "usr/share/bug",
    "usr/share/dh-python",
    "usr/share/doc",
    "usr/share/doc-base",
    "usr/share/gcc",
    "usr/share/gdb",
    "usr/share/icons",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/menu",
    "usr/share/pixmaps",
    "usr/share/python3/runtime.d",
    "usr/share/zsh",
    "usr/lib/modules",
    "usr/lib/valgrind",
    "var/cache",
    "var/lib/dpkg",
)
_DROPPED: Final = re.compile(
    r"""
      .*\.(a|la|pyi)
    | usr/lib/[^/]+/gconv                                # iconv(3) only: Python has its own codecs
    | usr/lib/python3[^/]*/(idlelib|ensurepip|turtledemo|lib2to3|pydoc_data)
    | usr/lib/python3\.\d+/(tkinter|turtle\.py)          # no display
    | usr/lib/python3\.\d+/lib-dynload/(_test|_xxtest|xxlimited).*
    | usr/lib/python3/dist-packages/numpy/(f2py|core/include)  # no compiler
    | usr/lib/python3[^/]*/(.*/)?tests                   # test suites of distributions
    | usr/lib/python3\.\d+/(.*/)?test                    # and of the standard library
    | usr/lib/python3\.\d+/dist-packages/numpy           # Debian's second copy, never imported
    | usr/lib/python3[^/]*/config-3[^/]*
    | .*/__pycache__
    """,
    re.VERBOSE,
)


def is_trimmed(path: str) -> bool:
    """True if the path, and all below it, stays out of the image."""
    return path in _DROPPED_TREES or _DROPPED.fullmatch(path) is not None
