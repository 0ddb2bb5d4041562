"""Byte-compiled files for the guest's Python, made by the builder's.

Source: PEP 552 for the layout (unchecked hash: the guest never stats the source). Files are
marshalled in version 2, which has no back references: those depend on reference counts inside the
compiling process, and with them equal sources would give unequal bytes.
"""

from __future__ import annotations

import importlib.util
import marshal
import re
import sys
import warnings
from typing import Final

from agentd.image.spec import Progress, ProgressEvent
from agentd.image.tree import Tree, file

_UNCHECKED_HASH: Final = (0b01).to_bytes(4, "little")
_MARSHAL_VERSION: Final = 2
_SOURCE: Final = re.compile(r"usr/lib/(python3[^/]*|snapstart)/.*\.py")
_EVERY: Final = 100


def add_bytecode(tree: Tree, guest: tuple[int, int], progress: Progress) -> str:
    """Add a .pyc for each Python source in the tree that compiles.

    Args: guest: the guest's Python, major and minor version.
    Returns: "", or why nothing was compiled; the guest is then only slower.
    """
    mine = sys.version_info[:2]
    if mine != guest:
        return (
            f"byte code left out: it is for Python {guest[0]}.{guest[1]}, and the builder is "
            f"Python {mine[0]}.{mine[1]}; the guest compiles at import instead"
        )
    sources = [(path, item.data) for path, item in tree if item.is_file and _SOURCE.fullmatch(path)]
    for done, (path, source) in enumerate(sources):
        if done % _EVERY == 0:
            progress(ProgressEvent("compile", done, len(sources)))
        code = compile_source(source, f"/{path}")
        if code is not None:
            tree.add(_cache_path(path), file(code))
    progress(ProgressEvent("compile", len(sources), len(sources)))
    return ""


def compile_source(source: bytes, filename: str) -> bytes | None:
    """A .pyc file's content, or None for templates and other sources that do not compile."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = compile(source, filename, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError):
        return None
    head = importlib.util.MAGIC_NUMBER + _UNCHECKED_HASH + importlib.util.source_hash(source)
    return head + marshal.dumps(code, _MARSHAL_VERSION)


def _cache_path(path: str) -> str:
    folder, _, name = path.rpartition("/")
    return f"{folder}/__pycache__/{name.removesuffix('.py')}.{sys.implementation.cache_tag}.pyc"
