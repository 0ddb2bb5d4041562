"""Make the outer machine's image: Debian with QEMU, KVM, this checkout, a guest image to boot."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

from agentd.image import Image, ImageSpec, build_image, cpio, list_images
from agentd.image.bytecode import add_bytecode
from agentd.image.spec import DEFAULT_MODULES, ignore_progress
from agentd.image.tree import Tree, file

ROOT = Path(__file__).parents[3]
INSIDE = Path(__file__).parent / "inside"
# On the path of Debian's Python; the builder compiles what is there.
PYTHON_ROOT = "usr/lib/python3/dist-packages"
GUEST_IMAGE = "opt/guest-image"  # what drive.py builds its template from
PYTHON = (3, 11)  # of the Debian packages in the image; extension modules must be built for it
PROGRAM = "agentd"  # what the daemon imports of this checkout
PACKAGES = ("libxxhash0", "qemu-system-x86")
MODULES = (*DEFAULT_MODULES, "kvm-amd")
DISTRIBUTIONS = (
    "aiohttp",
    "cffi",
    "click",
    "msgspec",
    "prometheus-client",
    "psutil",
    "structlog",
    "uvloop",
)
_RUNS = (".py", ".so", ".json", ".html", "METADATA")
# As Debian's base-passwd, udev make them: machines reach /dev/kvm through this group alone.
_GROUP = "root:x:0:\nkvm:x:104:\nnogroup:x:65534:\n"


@dataclass(frozen=True)
class OuterImage:
    """What the outer machine boots."""

    kernel: Path
    initrd: Path
    cmdline: str


def build_outer_image(cache_dir: Path, more_packages: Sequence[str] = ()) -> OuterImage:
    """Build the image, or find it: the same content is built once.

    Args: cache_dir: keeps packages, both images; made if missing. more_packages: of Debian.
    Raises: SnapStartError when the packages cannot be had; OSError.
    """
    guest = build_image(ImageSpec(), cache_dir=cache_dir)
    wish = ImageSpec(packages=(*PACKAGES, *more_packages), kernel_modules=MODULES, preload=())
    base = build_image(wish, cache_dir=cache_dir)
    _drop_others(cache_dir, {guest.directory, base.directory})
    tree = _own_files()
    initrd = cache_dir / f"outer-{_key(base, guest, tree)}.cpio"
    if not initrd.exists():
        _write(initrd, base, guest, tree)
    return OuterImage(base.kernel_path, initrd, " ".join(base.manifest.cmdline))


def _drop_others(cache_dir: Path, kept: set[Path]) -> None:
    """Images of former states of the checkout would fill the disk."""
    for image in list_images(cache_dir):
        if image.directory not in kept:
            shutil.rmtree(image.directory)


def _own_files() -> Tree:
    tree = Tree()
    tree.add("init", file((INSIDE / "init.py").read_bytes(), 0o755))
    tree.add("opt/drive.py", file((INSIDE / "drive.py").read_bytes()))
    tree.add("etc/group", file(_GROUP.encode()))
    for path in sorted((ROOT / PROGRAM).rglob("*")):
        if path.is_file() and path.name.endswith(_RUNS):
            tree.add(f"{PYTHON_ROOT}/{path.relative_to(ROOT)}", file(path.read_bytes()))
    for one in _with_requirements(DISTRIBUTIONS):
        for name, path in _files_of(one):
            tree.add(f"{PYTHON_ROOT}/{name}", file(path.read_bytes()))
    return tree


def _with_requirements(names: Sequence[str]) -> list[Distribution]:
    found: dict[str, Distribution] = {}
    pending = list(names)
    while pending:
        name = pending.pop().lower()
        if name in found:
            continue
        found[name] = distribution(name)
        wanted = map(Requirement, found[name].requires or ())
        pending += [
            one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})
        ]
    return [found[name] for name in sorted(found)]


def _files_of(one: Distribution) -> Iterator[tuple[str, Path]]:
    for name in one.files or ():
        if ".." not in name.parts and name.name.endswith(_RUNS):
            yield str(name), Path(str(one.locate_file(name)))


def _key(base: Image, guest: Image, tree: Tree) -> str:
    digest = hashlib.sha256(f"{base.key} {guest.key}\n".encode())
    for path, entry in tree:
        digest.update(f"{path} {entry.mode} {hashlib.sha256(entry.data).hexdigest()}\n".encode())
    return digest.hexdigest()[:32]


def _write(initrd: Path, base: Image, guest: Image, tree: Tree) -> None:
    """The kernel unpacks archives one after the other; a later one's files win."""
    add_bytecode(tree, PYTHON, ignore_progress)
    for path in guest.directory.iterdir():
        tree.add(f"{GUEST_IMAGE}/{path.name}", file(path.read_bytes()))
    for old in initrd.parent.glob("outer-*"):
        old.unlink()
    unfinished = initrd.with_suffix(".new")
    with unfinished.open("wb") as out, base.initrd_path.open("rb") as packages:
        shutil.copyfileobj(packages, out, 1 << 20)
        cpio.write_archive(tree, out)
    unfinished.rename(initrd)
