"""What we put into every guest: PID 1, its runtime, its settings, and what a rootfs lacks."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from agentd import RELEASE
from agentd.errors import ConfigError, ErrorCode
from agentd.image.tree import Tree, char_device, directory, file, link

RUNTIME_ROOT: Final = "usr/lib/snapstart"
SETTINGS_DIR: Final = "etc/snapstart"
SETTINGS_FILE: Final = f"{SETTINGS_DIR}/runtime.json"
_MERGED_USR: Final = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
_USER_ID: Final = 1000
_PASSWD: Final = """\
root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
user:x:1000:1000:user:/workspace:/bin/sh
"""
_GROUP: Final = "root:x:0:\nnogroup:x:65534:\nuser:x:1000:\n"
# -I: no environment variable and no directory of a user's may change what PID 1 imports.
_INIT: Final = """\
#!/{python} -I
import sys

sys.path.insert(0, "/{root}")
from agentd.guest.__main__ import main

main()
"""
# Where update-alternatives would put links; the first provider that is there wins.
_ALTERNATIVES: Final = tuple(
    (f"{library}.so.3", tuple(f"{provider}/{library}.so.3" for provider in providers))
    for library, providers in (
        ("libblas", ("openblas-pthread", "openblas-openmp", "openblas-serial", "blas")),
        ("liblapack", ("openblas-pthread", "openblas-openmp", "openblas-serial", "lapack")),
    )
)
_LIBRARY_DIR: Final = "usr/lib/x86_64-linux-gnu"
_PYTHON: Final = re.compile(r"usr/bin/python(3)\.(\d+)")


def default_runtime_dir() -> Path:
    """The guest runtime that this installation carries."""
    return Path(__file__).resolve().parent.parent / "guest"


def read_runtime(folder: Path) -> dict[str, bytes]:
    """The guest runtime's sources by relative path.

    Raises: ConfigError if it has no __main__.py; OSError if a file cannot be read.
    """
    sources = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*.py"))
    }
    if "__main__.py" not in sources:
        raise ConfigError(
            ErrorCode.IMAGE_INVALID,
            f"reading the guest runtime in {str(folder)!r}: there is no __main__.py",
            hint="reinstall SnapStart",
        )
    return sources


def new_debian_tree() -> Tree:
    """An empty tree in the shape of a merged /usr, ready for packages."""
    tree = Tree()
    for name in _MERGED_USR:
        tree.add(f"usr/{name}", directory())
        tree.add(name, link(f"usr/{name}"))
    return tree


def finish_debian_tree(tree: Tree) -> None:
    """Do what the packages' maintainer scripts would have done, as far as a guest needs it."""
    for name, providers in _ALTERNATIVES:
        chosen = next((item for item in providers if tree.has(f"{_LIBRARY_DIR}/{item}")), None)
        if chosen is not None and not tree.has(f"{_LIBRARY_DIR}/{name}"):
            tree.add(f"{_LIBRARY_DIR}/{name}", link(chosen))
    texts = {
        "etc/passwd": _PASSWD,
        "etc/group": _GROUP,
        "etc/hostname": "snapstart\n",
        "etc/hosts": "127.0.0.1 localhost snapstart\n::1 localhost\n",
        "etc/machine-id": "",
    }
    for path, text in texts.items():
        tree.add(path, file(text.encode()))
    tree.add("root", directory(0o700))


def find_python(tree: Tree) -> tuple[str, tuple[int, int]]:
    """The newest Python 3 in the tree: its path without a leading slash, and its version.

    Raises: ConfigError if there is none.
    """
    found = [(int(match[2]), path) for path, _ in tree if (match := _PYTHON.fullmatch(path))]
    if not found:
        raise ConfigError(
            ErrorCode.IMAGE_INVALID,
            "looking for usr/bin/python3.* in the guest's files: there is none",
            hint="install a Python 3 in the rootfs; the guest runtime needs its standard library",
        )
    minor, path = max(found)
    return path, (3, minor)


def add_runtime(
    tree: Tree, runtime: Mapping[str, bytes], python: str, preload: Sequence[str]
) -> None:
    """Add PID 1, the runtime it runs, its settings, and the mount points it expects."""
    tree.add(f"{RUNTIME_ROOT}/agentd/__init__.py", file(b""))
    for path, source in runtime.items():
        tree.add(f"{RUNTIME_ROOT}/agentd/guest/{path}", file(source))
    tree.add("init", file(_INIT.format(python=python, root=RUNTIME_ROOT).encode(), 0o755))
    add_settings(tree, preload)
    for path in ("dev", "proc", "run", "sys"):
        tree.add(path, directory())
    tree.add("tmp", directory(0o1777))
    tree.add("workspace", directory(uid=_USER_ID, gid=_USER_ID))
    # The kernel opens the console for PID 1 before anything can mount a devtmpfs.
    tree.add("dev/console", char_device(5, 1, 0o600))
    tree.add("dev/null", char_device(1, 3, 0o666))


def add_settings(tree: Tree, preload: Sequence[str]) -> None:
    """Write the runtime's settings over those that the tree brings; it keeps what is not ours.

    Raises: ConfigError if the tree's own settings are not a JSON object.
    """
    own = tree.get(SETTINGS_FILE)
    try:
        settings = {} if own is None else msgspec.json.decode(own.data, type=dict[str, object])
    except msgspec.MsgspecError as exc:
        raise ConfigError(
            ErrorCode.IMAGE_INVALID,
            f"reading {SETTINGS_FILE!r} of the guest's files: {exc}",
            hint="make it a JSON object, or remove it",
        ) from exc
    settings |= {"preload": list(preload), "version": RELEASE}
    tree.add(SETTINGS_FILE, file(f"{json.dumps(settings, sort_keys=True)}\n".encode()))


def add_modules(tree: Tree, modules: Mapping[str, bytes]) -> None:
    """Add kernel modules, and the list of their paths in load order, one a line.

    Args: modules: path in the guest, without a leading slash, to content; in load order.
    """
    _add_listed(tree, modules, "modules")


def add_vsock_modules(tree: Tree, modules: Mapping[str, bytes]) -> None:
    """As `add_modules`: those that are loaded on top where the guest channel is a vsock."""
    _add_listed(tree, modules, "modules-vsock")


def _add_listed(tree: Tree, modules: Mapping[str, bytes], name: str) -> None:
    for path, content in modules.items():
        tree.add(path, file(content))
    listing = "".join(f"/{path}\n" for path in modules)
    tree.add(f"{SETTINGS_DIR}/{name}", file(listing.encode()))
