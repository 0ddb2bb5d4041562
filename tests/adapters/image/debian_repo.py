"""A Debian archive of a few tiny packages on disk, for the real APT to read."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import os
import struct
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

RELEASE = "6.1.0-1-test-amd64"


@dataclass(frozen=True)
class Package:
    """One package: `files` maps paths to content; a `str` content is a link's target."""

    name: str
    version: str = "1.0-1"
    depends: str = ""
    files: dict[str, bytes | str] = field(default_factory=dict)

    @property
    def control(self) -> str:
        depends = f"Depends: {self.depends}\n" if self.depends else ""
        return (
            f"Package: {self.name}\nVersion: {self.version}\nArchitecture: amd64\n{depends}"
            "Maintainer: nobody <nobody@example.org>\nDescription: test\n"
        )

    def build(self) -> bytes:
        members = {
            "debian-binary": b"2.0\n",
            "control.tar.gz": gzip.compress(_tar({"control": self.control.encode()}), mtime=0),
            "data.tar.xz": lzma.compress(_tar(self.files)),
        }
        return b"!<arch>\n" + b"".join(_ar(name, data) for name, data in members.items())


class DebianRepo:
    """The archive and an APT configuration that knows nothing else."""

    def __init__(self, root: Path, packages: list[Package]) -> None:
        self.pool = root / "pool"
        self.lists = root / "lists"
        self.logs = root / "log"
        self.config = root / "apt.conf"
        etc = root / "etc"
        for folder in (self.pool, self.lists / "partial", self.logs, etc, root / "cache"):
            folder.mkdir(parents=True)
        self._write_pool(packages)
        (etc / "sources.list").write_text(f"deb [trusted=yes] file:{self.pool} ./\n")
        (root / "status").write_text("")
        self.config.write_text(
            f'Dir::Etc "{etc}";\nDir::Etc::sourceparts "/dev/null";\nDir::Cache "{root}/cache";\n'
            f'Dir::State::lists "{self.lists}";\nDir::State::status "{root}/status";\n'
            f'Dir::Log "{self.logs}";\n'
            'APT::Architecture "amd64";\nAPT::Architectures "amd64";\nAPT::Sandbox::User "";\n'
        )

    def _write_pool(self, packages: list[Package]) -> None:
        stanzas = []
        for package in packages:
            content = package.build()
            name = f"{package.name}_{package.version}_amd64.deb"
            (self.pool / name).write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            stanzas.append(
                f"{package.control}Filename: ./{name}\nSize: {len(content)}\nSHA256: {digest}\n"
            )
        (self.pool / "Packages").write_text("\n".join(stanzas))

    def update(self) -> None:
        """What the operator does as root."""
        env = {**os.environ, "APT_CONFIG": str(self.config)}
        command = ["apt-get", "-qq", "update"]
        subprocess.run(command, env=env, check=True, capture_output=True, timeout=30)

    def deb(self, name: str) -> Path:
        """The archive's file of a package."""
        return next(self.pool.glob(f"{name}_*.deb"))


def guest_packages(kernel_files: Mapping[str, bytes] = MappingProxyType({})) -> list[Package]:
    """Stand-ins for what a guest image asks for, with the shapes of the real packages.

    kernel_files: below the kernel's directory of modules.
    """
    python, packages = "usr/lib/python3.11", "usr/lib/python3/dist-packages"
    modules = f"lib/modules/{RELEASE}"
    builtin = "kernel/drivers/virtio/virtio_{}.ko\n"
    names = ("mmio", "pci", "pci_modern_dev", "pci_legacy_dev", "console", "ring")
    return [
        Package("base-files", files={"etc/os-release": "../usr/lib/os-release", "lib/": b""}),
        Package("dash", depends="dpkg", files={"bin/dash": b"dash", "bin/sh": "dash"}),
        Package("dpkg", depends="tar", files={"usr/bin/dpkg": b"dpkg"}),
        Package("tar", files={"bin/tar": b"tar"}),
        Package("libpython3.11-stdlib", files={f"{python}/json.py": b"loads = None\n"}),
        Package("python3-minimal", files={"usr/bin/python3": "python3.11"}),
        Package("python3.11-minimal", files={"usr/bin/python3.11": b"\x7fELF"}),
        Package("python3-numpy", depends="libblas3 (>= 1)", files=_numpy()),
        Package("libblas3", files={"usr/lib/x86_64-linux-gnu/blas/libblas.so.3": b"blas"}),
        Package("python3-pandas", depends="python3-numpy"),
        Package("python3-cryptography", files={f"{packages}/cryptography/__init__.py": b"x = 1\n"}),
        Package("python3-jwt", files={f"{packages}/jwt/__init__.py": b"x = 1\n"}),
        Package("linux-image-cloud-amd64", depends=f"linux-image-{RELEASE} (= 1.0-1), kmod"),
        Package("kmod", files={"bin/kmod": b"kmod"}),
        Package(
            f"linux-image-{RELEASE}",
            files={
                f"boot/vmlinuz-{RELEASE}": tiny_bzimage(),
                f"{modules}/modules.builtin": (
                    "".join(builtin.format(name) for name in names) + "kernel/virtio.ko\n"
                ).encode(),
                **{f"{modules}/{path}": data for path, data in kernel_files.items()},
            },
        ),
    ]


def tiny_bzimage() -> bytes:
    elf = b"\x7fELF kernel"
    payload = lzma.compress(elf) + struct.pack("<I", len(elf))
    setup = bytearray(1024)
    setup[0x1F1], setup[0x202:0x206] = 1, b"HdrS"
    struct.pack_into("<II", setup, 0x248, 0, len(payload))
    return bytes(setup) + payload


def _numpy() -> dict[str, bytes | str]:
    root = "usr/lib/python3/dist-packages/numpy"
    return {
        f"{root}/__init__.py": b"x = 1\n",
        f"{root}/tests/test_x.py": b"",
        "usr/share/doc/n": b"",
    }


def _tar(files: dict[str, bytes] | dict[str, bytes | str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path, content in files.items():
            info = tarfile.TarInfo(f"./{path}")
            info.mode = 0o755
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            elif path.endswith("/"):
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _ar(name: str, data: bytes) -> bytes:
    header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
    return header + data + (b"\n" if len(data) % 2 else b"")
