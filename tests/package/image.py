"""Build the container images from a clean clone, look into them, fork a machine in one.

make test-image              takes about ten minutes; needs no container engine, no registry
make test-image JSON=1       and one JSON object as the last line

The base is a Debian made by debootstrap, since a registry need not be in reach.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from agentd.errors import ErrorCode
from agentd.units import MIB
from bench.target import run_target
from tests.package.journey import ask_doctor, expect, fork_times, run_demo
from tests.package.made import TOOLS, clone_to, fetch_dependencies, run
from tests.package.root import DebianRoot, make_base, running

NAMES: Final = ("snapstart", "snapstart-qemu")
USER: Final = 65532
SBOM: Final = "usr/share/doc/snapstart/sbom.cdx.json"
# Nothing that makes programs or installs them; nothing that a stage before left.
UNWANTED: Final = (
    *("usr/bin/gcc*", "usr/bin/cc", "usr/bin/*-gcc*", "usr/bin/as", "usr/bin/ld", "usr/bin/make"),
    *("usr/include/*.h", "opt/snapstart/bin/pip*", "usr/bin/pip*", "opt/snapstart/bin/cython*"),
    *("src", "tools", "locks", "sbom.cdx.json", "var/lib/apt/lists/*_Packages*"),
)
# Ours; of PyPI, with what sends traces; of Debian.
_LISTED: Final = {
    *("agentcube-snapstart", "uvloop", "opentelemetry-proto", "libc6", "libxxhash-dev"),
}
# A root that cannot be written to, but for what README.md beside the recipe names.
_READ_ONLY: Final = """
mount --bind "$1" "$1"
mount -o remount,bind,ro "$1"
for place in tmp run/snapstart var/lib/snapstart var/cache/snapstart var/lib/apt/lists var/cache/apt
do mount -t tmpfs tmpfs "$1/$place"
done
mount --bind /etc/resolv.conf "$1/etc/resolv.conf"
"""


@dataclass(frozen=True)
class Store:
    """Where buildah keeps images, away from those of this machine."""

    directory: Path

    def environ(self) -> dict[str, str]:
        """For a buildah without a daemon, without namespaces, on any file system."""
        conf = self.directory / "storage.conf"
        driver = os.environ.get("STORAGE_DRIVER", "vfs")
        conf.write_text(
            f'[storage]\ndriver = "{driver}"\n'
            f'graphroot = "{self.directory}/graph"\nrunroot = "{self.directory}/run"\n'
        )
        return {**os.environ, "CONTAINERS_STORAGE_CONF": str(conf), "BUILDAH_ISOLATION": "chroot"}

    def ask(self, *words: str) -> str:
        """What buildah answers. Raises: CalledProcessError."""
        argv = ["buildah", *words]
        return subprocess.check_output(argv, text=True, env=self.environ(), timeout=900).strip()

    def build(self, clone: Path, version: str, index: Path) -> None:
        """Both images, by the recipe. Raises: PermanentError."""
        base = self._base()
        options = [f"BASE={base}", "PIP_NO_INDEX=1", "PIP_FIND_LINKS=/release"]
        words = [word for option in options for word in ("--build-arg", option)]
        script = str(clone / "deploy" / "image" / "build")
        run(script, version, *words, "--volume", f"{index}:/release:ro", environ=self.environ())

    def _base(self) -> str:
        container = self.ask("from", "scratch")
        self.ask("add", "--quiet", container, str(make_base()), "/")
        self.ask("commit", "--quiet", "--rm", container, "localhost/debian:12")
        return "localhost/debian:12"


@contextlib.contextmanager
def buildah_store() -> Iterator[Store]:
    """One that is gone afterwards, with its containers and mounts."""
    with TemporaryDirectory(prefix="snapstart-images-") as scratch:
        store = Store(Path(scratch))
        try:
            yield store
        finally:
            store.ask("rm", "--all")
            store.ask("rmi", "--all", "--force")


@dataclass(frozen=True)
class Built:
    """One image, unpacked. config: as the image has it."""

    name: str
    path: Path
    config: dict[str, Any]
    size_bytes: int

    def argv(self, *words: str) -> list[str]:
        """What a container runs that is given these arguments."""
        return [*self.config["Entrypoint"], *words]


def unpack(store: Store, name: str, tag: str) -> Built:
    """A container of an image, mounted."""
    reference = f"localhost/{name}:{tag}"
    facts = json.loads(store.ask("inspect", "--type", "image", reference))
    path = Path(store.ask("mount", store.ask("from", reference)))
    return Built(name, path, facts["OCIv1"]["config"], used_bytes(path))


def used_bytes(root: Path) -> int:
    """Of all files, without the base's holes."""
    return sum(
        path.lstat().st_size
        for folder, _, files in os.walk(root)
        for path in (Path(folder, name) for name in files)
    )


def privileged_files(root: Path) -> list[str]:
    """Programs that lend their owner's rights."""
    return [
        str(path.relative_to(root))
        for folder, _, files in os.walk(root)
        for path in (Path(folder, name) for name in files)
        if stat.S_ISREG(mode := path.lstat().st_mode) and mode & (stat.S_ISUID | stat.S_ISGID)
    ]


def look_into(image: Built, version: str) -> int:
    """Judge what an image is made of. Returns: how many components its list has."""
    found = [str(p.relative_to(image.path)) for glob in UNWANTED for p in image.path.glob(glob)]
    expect(not found, f"{image.name} holds {found}")
    lent = privileged_files(image.path)
    expect(not lent, f"{image.name} holds set-user-ID programs: {lent}")
    config = image.config
    expect(config["User"] == f"{USER}:{USER}", f"{image.name} runs as {config['User']!r}")
    expect(config["Cmd"] == ["snapctl", "--help"], f"{image.name} runs {config['Cmd']!r}")
    labelled = config["Labels"]["org.opencontainers.image.version"]
    expect(labelled == version, f"{image.name} is labelled {labelled!r}")
    listed = json.loads((image.path / SBOM).read_text())["components"]
    names = {one["name"] for one in listed}
    missing = _LISTED - names
    expect(not missing, f"the component list of {image.name} lacks {missing}")
    has_qemu = "qemu-system-x86" in names
    expect(has_qemu == (image.name == "snapstart-qemu"), f"{image.name} has QEMU: {has_qemu}")
    return len(listed)


def run_programs(root: DebianRoot, image: Built, version: str) -> None:
    """All three start by the entry point, as the users that they are for."""
    for user, program in ((0, "agentd"), (USER, "snapctl"), (USER, "snapstart-controlplane")):
        said = root.run(*image.argv(program, "--version"), user=user)
        expect(said.split()[-1] == version, f"{program} --version says {said!r}")
    root.run(*image.argv("snapstart-controlplane", "config", "check"), user=USER)
    root.run(*image.argv("agentd", "config", "check"))


def try_image(image: Built, version: str) -> dict[str, Any]:
    """Look into one, run it on a root that is read-only. Returns: facts for the report."""
    components = look_into(image, version)
    facts: dict[str, Any] = {"size_mib": image.size_bytes // MIB, "components": components}
    with running(image.path, _READ_ONLY) as root:
        run_programs(root, image, version)
        status, wrong = ask_doctor(root)
        expect(status == ErrorCode.CONFIG_INVALID.exit_code, f"doctor: {status}, {wrong}")
        failed = {one["name"] for one in wrong if one["level"] == "fail"}
        missing = {"socket", "daemon"} | ({"qemu"} if image.name == "snapstart" else set())
        expect(failed == missing, f"doctor in {image.name} finds {sorted(failed)}")
        if image.name == "snapstart-qemu":
            root.run("apt-get", "update", "-qq")
            facts["fork_ms"] = fork_times(run_demo(root))
    print(f"{image.name}: {facts}")
    return facts


def run_all(*, as_json: bool) -> int:
    """Raises: PermanentError at the first thing that is not so."""
    with TemporaryDirectory(prefix="clone-") as scratch, buildah_store() as store:
        clone = clone_to(Path(scratch) / "clone")
        ask = [str(TOOLS / "python"), "-m", "setuptools_scm", "--root", str(clone)]
        version = subprocess.check_output(ask, text=True, cwd=clone).strip()
        store.build(clone, version, fetch_dependencies(Path(scratch) / "index"))
        tag = version.replace("+", "-")
        found = {name: try_image(unpack(store, name, tag), version) for name in NAMES}
    if as_json:
        print(json.dumps({"version": version, "images": found, "exit_status": 0}))
    return 0


def main() -> int:
    """Exit status: 0, or that of the error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    args = parser.parse_args()
    return run_target(lambda: run_all(as_json=args.json), as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
