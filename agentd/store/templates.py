"""Keep the sealed templates of a node.

See docs/store.md for the layout and the protection argument. Every call blocks and may be made from
any thread.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from agentd.errors import ErrorCode, PermanentError, SnapStartError, UsageError
from agentd.store import files, load, seal
from agentd.store.copier import Copier
from agentd.store.data_dir import DataDir
from agentd.store.digests import encode_digest, sha256_file
from agentd.store.failures import READING, WRITING, corrupt, exists, not_found, translated
from agentd.store.load import Verified
from agentd.store.loaded import LoadedTemplate
from agentd.store.memfd import check_sealed
from agentd.store.names import validate_name
from agentd.store.progress import Steps
from agentd.store.seal import Origin, SealRequest
from agentd.wire.manifest import Manifest


@dataclass(frozen=True)
class StoredTemplate:
    """A template on disk. disk_bytes: what its files take. has_digest: see `write_digest`."""

    manifest: Manifest
    disk_bytes: int
    has_digest: bool


@dataclass(frozen=True)
class BrokenTemplate:
    """Something under `templates/` that cannot be served, and why."""

    name: str
    error: SnapStartError


def utc_now() -> datetime:
    """The time by the node's clock."""
    return datetime.now(UTC)


class TemplateStore:
    """The templates of one data directory, which it locks until `close`.

    Templates on disk are immutable: they appear whole, disappear whole.
    """

    def __init__(
        self,
        path: Path,
        *,
        owner: str,
        copier: Copier,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """Open the store, deleting what an earlier owner left half-made.

        Args: owner: id of this installation; templates of others are refused. copier: `native`'s.
        Raises: ConfigError when the directory is in use or not this user's alone.
        """
        self._owner = owner
        self._copier = copier
        self._clock = clock
        self._lock = threading.Lock()  # over the leases, and over names that come or go
        self._leases: Counter[str] = Counter()
        self._dir = DataDir(path)

    def seal(self, request: SealRequest, steps: Steps | None = None) -> Manifest:
        """Keep a frozen guest as a template; on return it is on disk under its name.

        Its memfds are sealed and stay the caller's: give them to `adopt_memfds`.
        Raises: UsageError NAME_INVALID, TEMPLATE_EXISTS; TransientError DISK_FULL, SHUTTING_DOWN
        (cancelled); ConfigError PERMISSION_DENIED; PermanentError TEMPLATE_BUILD_FAILED.
        Cancellation (`steps.cancel_fd`), any failure: leaves nothing behind.
        """
        steps = steps or Steps()
        name = validate_name(request.name)
        doing = f"sealing template {name!r} in {self._dir.path}"
        with translated(doing, WRITING, ErrorCode.TEMPLATE_BUILD_FAILED):
            if self._is_taken(name):
                raise exists(name)
            seal.seal_checkpoint(request)
            return self._stage_and_publish(request, steps)

    def _stage_and_publish(self, request: SealRequest, steps: Steps) -> Manifest:
        template_id = str(uuid.uuid4())
        created_at = self._clock().isoformat(timespec="seconds").replace("+00:00", "Z")
        origin = Origin(template_id, self._owner, created_at)
        with self._stage() as stage, seal.space_for(request, self._dir.staging_fd, self._dir.path):
            steps.reached("space")
            with files.opened_dir(stage, self._dir.staging_fd) as dir_fd:
                manifest = seal.write_template(dir_fd, request, origin, self._copier, steps)
            self._publish(stage, request.name, steps)
        return manifest

    @contextmanager
    def _stage(self) -> Iterator[str]:
        """A directory in `staging/`; what is left of it at the end is deleted."""
        stage = self._dir.new_stage()
        try:
            yield stage
        finally:
            self._dir.delete_stage(stage)

    def _publish(self, stage: str, name: str, steps: Steps) -> None:
        with self._lock:
            if self._is_taken(name):
                raise exists(name)
            self._dir.publish(stage, name)
        try:
            steps.reached("published")
            self._dir.sync_names()
        except BaseException:
            # Not known to survive a power failure, so not promised: take it back.
            self._dir.delete_discarded(self._dir.discard(name))
            raise

    def _is_taken(self, name: str) -> bool:
        try:
            os.lstat(name, dir_fd=self._dir.templates_fd)
        except FileNotFoundError:
            return False
        return True

    def adopt_memfds(self, manifest: Manifest, memory_fd: int, state_fd: int) -> LoadedTemplate:
        """Use the memory of a frozen guest that `seal` just kept, without reading it back.

        Checked here: that both memfds are sealed and as long as the manifest says. That the content
        is the manifest's needs no second look: `seal` sealed them before it hashed the first byte,
        and a sealed memfd does not change. Not checked: that the disk holds the same; fsync(2)
        reported no error, and the next `load` verifies every byte.

        Args: memory_fd, state_fd: those that `seal` was given; owned by the result, on failure
        still the caller's. Raises: InvariantError, PermanentError TEMPLATE_CORRUPT.
        """
        template = LoadedTemplate(manifest, memory_fd, state_fd)
        check_sealed(template)
        return template

    def load(self, name: str, steps: Steps | None = None) -> LoadedTemplate:
        """Read a template into sealed memory, verifying every byte.

        Hold a `lease` while using the result. Returns: owned by the caller.
        Raises: UsageError NAME_INVALID, TEMPLATE_NOT_FOUND; PermanentError TEMPLATE_CORRUPT,
        TEMPLATE_INCOMPATIBLE; TransientError NO_MEMORY, SHUTTING_DOWN (cancelled).
        Cancellation, any failure: gives the memory back.
        """
        with self._opened(name, "loading") as dir_fd:
            manifest = load.read_manifest(dir_fd, name, self._owner)
            return load.load_template(dir_fd, manifest, self._copier, steps or Steps())

    def verify(self, name: str, steps: Steps | None = None) -> Verified:
        """Read a template's every byte from disk, checking it against all that was recorded.

        Raises: as `load`.
        """
        with self._opened(name, "verifying") as dir_fd:
            manifest = load.read_manifest(dir_fd, name, self._owner)
            return load.verify_template(dir_fd, manifest, self._copier, steps or Steps())

    def write_digest(self, template: LoadedTemplate, steps: Steps | None = None) -> str:
        """Record the SHA-256 of a template's memory beside it, once; takes seconds per GiB.

        Computed from the sealed memory, not from the file: what it vouches for is what was frozen.
        Returns: the digest, hex. Raises: UsageError TEMPLATE_NOT_FOUND when the template was
        removed; otherwise as `seal`. Cancellation: leaves nothing behind.
        """
        manifest = template.manifest
        doing = f"recording the SHA-256 of template {manifest.name!r}"
        with translated(doing, WRITING):
            size_bytes = manifest.memory.size_bytes
            sha256 = sha256_file(template.memory_fd, size_bytes, "sha256", steps or Steps())
            with self._stage() as stage, files.opened_dir(stage, self._dir.staging_fd) as stage_fd:
                with files.created_file(files.DIGEST, stage_fd) as fd:
                    files.write_all(fd, encode_digest(sha256))
                self._place_digest(manifest, stage_fd)
        return sha256

    def _place_digest(self, manifest: Manifest, stage_fd: int) -> None:
        with self._lock, self._opened(manifest.name, "reading") as dir_fd:
            there = load.read_manifest(dir_fd, manifest.name, self._owner)
            if there.template_id != manifest.template_id:
                raise not_found(manifest.name)  # removed, and built anew, in the meantime
            os.rename(files.DIGEST, files.DIGEST, src_dir_fd=stage_fd, dst_dir_fd=dir_fd)
            os.fsync(dir_fd)

    def inspect(self, name: str) -> StoredTemplate:
        """Describe a template from its manifest, without reading its memory. Raises: as `load`."""
        with self._opened(name, "inspecting") as dir_fd:
            manifest = load.read_manifest(dir_fd, name, self._owner)
            load.check_sizes(dir_fd, manifest)
            has_digest = load.read_digest(dir_fd, name) is not None
            return StoredTemplate(manifest, files.allocated_bytes(dir_fd), has_digest)

    def list(self) -> tuple[StoredTemplate, ...]:
        """Every template that may be served, by name. Raises: ConfigError, TransientError."""
        return tuple(entry for entry in self._survey() if isinstance(entry, StoredTemplate))

    def list_broken(self) -> tuple[BrokenTemplate, ...]:
        """Everything under `templates/` that is never served; nothing deletes it but `remove`."""
        return tuple(entry for entry in self._survey() if isinstance(entry, BrokenTemplate))

    def _survey(self) -> Iterator[StoredTemplate | BrokenTemplate]:
        with translated(f"listing {self._dir.path}", READING):
            names = sorted(os.listdir(self._dir.templates_fd))
        for name in names:
            try:
                yield self.inspect(name)
            except SnapStartError as exc:
                if exc.code is not ErrorCode.TEMPLATE_NOT_FOUND:  # removed since
                    yield BrokenTemplate(name, exc)

    @contextmanager
    def lease(self, name: str) -> Iterator[None]:
        """Keep a template from being removed while the block runs.

        Raises: UsageError NAME_INVALID, TEMPLATE_NOT_FOUND.
        """
        validate_name(name)
        with self._lock:
            if not self._is_taken(name):
                raise not_found(name)
            self._leases[name] += 1
        try:
            yield
        finally:
            with self._lock:
                self._leases[name] -= 1

    def remove(self, name: str) -> None:
        """Remove a template, sound or broken: its name at once, then its files.

        Memory that live forks map stays until the last of them ends: the kernel counts it.
        Raises: UsageError NAME_INVALID, TEMPLATE_NOT_FOUND, TEMPLATE_IN_USE; ConfigError.
        """
        validate_name(name)
        with translated(f"removing template {name!r} from {self._dir.path}", WRITING):
            with self._lock:
                self._require_unleased(name)
                try:
                    trash_name = self._dir.discard(name)
                except FileNotFoundError as exc:
                    raise not_found(name) from exc
            self._dir.sync_names()
            self._dir.delete_discarded(trash_name)

    def _require_unleased(self, name: str) -> None:
        if count := self._leases[name]:
            raise UsageError(
                ErrorCode.TEMPLATE_IN_USE,
                f"template {name!r} is in use by {count} session{'s' if count > 1 else ''}",
                hint="end them first",
            )

    @contextmanager
    def _opened(self, name: str, doing: str) -> Iterator[int]:
        """Hold a template's directory open while it is read."""
        validate_name(name)
        with translated(f"{doing} template {name!r}", READING):
            try:
                with files.opened_dir(name, self._dir.templates_fd) as dir_fd:
                    yield dir_fd
            except files.UntrustedFileError as exc:
                raise corrupt(name, str(exc)) from exc
            except FileNotFoundError as exc:
                raise not_found(name) from exc
            except PermanentError as exc:
                if self._is_taken(name):
                    raise
                raise not_found(name) from exc  # removed while it was read

    def close(self) -> None:
        """Release the data directory; templates in memory stay usable. Idempotent."""
        self._dir.close()

    def __enter__(self) -> TemplateStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
