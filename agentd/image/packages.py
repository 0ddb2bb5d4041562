"""The two caches in front of APT: its answers and its packages.

Packages are stored under their digest and verified each time they are read, in the same bytes that
are then unpacked; so neither a damaged nor an exchanged file reaches an image. An answer of APT's
solver is kept under a digest of everything it depends on: the names asked for, APT's configuration
and the identity of its package lists.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from agentd.errors import ErrorCode, PermanentError
from agentd.image import apt
from agentd.image.files import staging_dir
from agentd.image.manifest import FORMAT_VERSION, PackageRecord
from agentd.image.spec import Progress, ProgressEvent


def resolve_packages(names: Sequence[str], cache_dir: Path) -> tuple[PackageRecord, ...]:
    """What APT would choose for `names`; instant if its lists have not changed since.

    Raises: as apt.resolve; OSError if the cache is not writable.
    """
    paths = apt.read_paths()
    answer = cache_dir / "resolutions" / f"{_fingerprint(names, paths)}.json"
    try:
        return msgspec.json.decode(answer.read_bytes(), type=tuple[PackageRecord, ...])
    except (FileNotFoundError, msgspec.MsgspecError):
        pass
    with staging_dir(cache_dir) as scratch:
        packages = apt.resolve(names, paths, scratch)
        answer.parent.mkdir(parents=True, exist_ok=True)
        (scratch / "answer").write_bytes(msgspec.json.encode(packages))
        (scratch / "answer").rename(answer)
    return packages


def _fingerprint(names: Sequence[str], paths: apt.AptPaths) -> str:
    lines = [str(FORMAT_VERSION), paths.architecture, *sorted(names), "", *apt.ASSUMED, ""]
    for root in (paths.config_dir, paths.lists_dir):
        lines += sorted(_identities(root))
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def _identities(root: Path) -> Iterator[str]:
    """Path, size and time of each file; a file that may not be seen does not count."""
    for folder, _, files in os.walk(root):
        for name in files:
            path = os.path.join(folder, name)
            try:
                status = os.stat(path)
            except OSError:
                continue
            yield f"{path} {status.st_size} {status.st_mtime_ns}"


class PackageCache:
    """Packages on disk, by digest. Safe to share between builders in any number of processes."""

    def __init__(self, cache_dir: Path) -> None:
        self._cache_dir = cache_dir
        self._debs = cache_dir / "debs"

    def ensure(self, packages: Sequence[PackageRecord], progress: Progress) -> None:
        """Download what is not here yet, in one go.

        Raises: as apt.download; OSError if the cache is not writable.
        """
        missing = [package for package in packages if not self._is_present(package)]
        if not missing:
            return
        self._debs.mkdir(parents=True, exist_ok=True)
        total = sum(package.size_bytes for package in missing)
        with staging_dir(self._cache_dir) as scratch:
            inbox = scratch / "inbox"
            inbox.mkdir()
            progress(ProgressEvent("download", 0, total))
            apt.download(
                missing,
                inbox,
                scratch,
                lambda: progress(ProgressEvent("download", min(_size_of(inbox), total), total)),
            )
            self._adopt(inbox, missing)
            progress(ProgressEvent("download", total, total))

    def read(self, package: PackageRecord) -> bytes:
        """The package's bytes, verified; a damaged file is deleted and downloaded once more.

        Raises: PermanentError if the new one is wrong as well; as `ensure`.
        """
        for _ in range(2):
            self.ensure([package], lambda _event: None)
            content = self._path(package).read_bytes()
            if hashlib.sha256(content).hexdigest() == package.sha256:
                return content
            self._path(package).unlink(missing_ok=True)
        raise PermanentError(
            ErrorCode.PACKAGES_UNAVAILABLE,
            f"verifying the package {package.name!r} {package.version!r} in {str(self._debs)!r}: "
            f"its SHA256 is not {package.sha256}, also after a second download",
            hint="check this machine's disk and memory",
        )

    def _path(self, package: PackageRecord) -> Path:
        return self._debs / f"{package.sha256}.deb"

    def _is_present(self, package: PackageRecord) -> bool:
        try:
            return self._path(package).stat().st_size == package.size_bytes
        except FileNotFoundError:
            return False

    def _adopt(self, inbox: Path, expected: Sequence[PackageRecord]) -> None:
        digests = {package.sha256 for package in expected}
        for path in inbox.glob("*.deb"):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            if digest in digests:
                _own(path).rename(self._debs / f"{digest}.deb")
                digests.remove(digest)
        if digests:
            names = sorted(package.name for package in expected if package.sha256 in digests)
            raise PermanentError(
                ErrorCode.PACKAGES_UNAVAILABLE,
                f"downloading {names!r}: what came has another SHA256 than the package lists say",
                hint="run `apt-get update` as root; if it stays, the mirror is damaged",
            )


def _own(path: Path) -> Path:
    """A copy if it is a link: APT links to packages of `file:` sources."""
    if not path.is_symlink():
        return path
    return shutil.copyfile(path, path.with_suffix(".copy"))


def _size_of(folder: Path) -> int:
    total = 0
    for folder_name, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.stat(os.path.join(folder_name, name)).st_size
            except FileNotFoundError:
                continue  # APT renames its partial files
    return total
