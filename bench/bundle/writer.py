"""Write a bundle: it appears whole, or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from agentd._version import __version__
from agentd.cli.demo_machine import describe_machine
from agentd.errors import ErrorCode, UsageError
from agentd.image.files import hash_file
from bench.bundle.manifest import (
    MANIFEST,
    PERCENTILES,
    PROMISES,
    SAMPLES,
    Manifest,
    Promised,
    is_inside,
)
from bench.bundle.percentiles import summarize_groups
from bench.bundle.samples import Sample, encode_line
from bench.machine import read_commit
from bench.steal import read_steal_ms, steal_share


class BundleWriter:
    """Collects samples in `<directory>.unfinished`, which becomes the directory at the end.

    Args: directory: replaced if it is a bundle. command: what was typed. qemu_version: of the
    machines, empty without any. versions: of what else took part.
    Raises: UsageError if the directory is something else, or another run writes it.
    Cancellation: an exception in its block removes what was collected.
    """

    def __init__(
        self,
        directory: Path,
        command: str,
        *,
        qemu_version: str = "",
        versions: dict[str, str] | None = None,
    ) -> None:
        self._directory = directory.absolute()
        self._unfinished = self._directory.with_name(f"{directory.name}.unfinished")
        self._command = command
        self._qemu_version = qemu_version
        self._versions = versions or {}
        self._samples: list[Sample] = []
        self._promises: list[Promised] = []
        self._owned = ExitStack()

    def __enter__(self) -> Self:
        _require_bundle(self._directory)
        self._unfinished.mkdir(parents=True, exist_ok=True)
        with ExitStack() as owned:
            _lock(self._unfinished, owned)
            owned.push(self._remove_if_failed)
            _empty(self._unfinished)
            self._lines = owned.enter_context((self._unfinished / SAMPLES).open("xb"))
            self._owned = owned.pop_all()
        self._made_at = datetime.now(UTC)
        self._begun_s, self._steal_ms = time.monotonic(), read_steal_ms()
        return self

    @property
    def at_s(self) -> float:
        """Seconds since the run began, for samples."""
        return time.monotonic() - self._begun_s

    def add(self, *samples: Sample) -> None:
        """Append samples; they are in the file at once."""
        for sample in samples:
            self._lines.write(encode_line(sample))
            self._samples.append(sample)
        self._lines.flush()

    def promise(self, *promises: Promised) -> None:
        """Note what was judged."""
        self._promises += promises

    def add_file(self, name: str, content: bytes | str) -> None:
        """Add a new file, of `logs/` or `evidence/`. Raises: UsageError for a bad name."""
        if not is_inside(name) or name in (MANIFEST, SAMPLES, PERCENTILES, PROMISES):
            message = f"adding {name!r} to a bundle: it is no name of a file of its own in there"
            raise UsageError(ErrorCode.NAME_INVALID, message)
        path = self._unfinished / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if failure is not None:
            self._owned.__exit__(kind, failure, trace)
            return
        with self._owned:
            self._finish()

    def _remove_if_failed(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            shutil.rmtree(self._unfinished, ignore_errors=True)

    def _finish(self) -> None:
        self._lines.close()
        percentiles = msgspec.json.encode(summarize_groups(self._samples))
        self._add_json(PERCENTILES, percentiles)
        if self._promises:
            self._add_json(PROMISES, msgspec.json.encode(self._promises))
        files = {one: hash_file(self._unfinished / one) for one in list_files(self._unfinished)}
        self._add_json(MANIFEST, msgspec.json.encode(self._describe(files)))
        if self._directory.exists():
            shutil.rmtree(self._directory)
        self._unfinished.rename(self._directory)

    def _add_json(self, name: str, content: bytes) -> None:
        (self._unfinished / name).write_bytes(msgspec.json.format(content, indent=1) + b"\n")

    def _describe(self, files: dict[str, str]) -> Manifest:
        commit, took_s = read_commit(), self.at_s
        machine = describe_machine(self._qemu_version, commit=commit)
        versions = {"snapstart": __version__, "python": machine.python, "kernel": machine.kernel}
        qemu = {"qemu": self._qemu_version} if self._qemu_version else {}
        return Manifest(
            made_at=self._made_at.isoformat(timespec="seconds"),
            took_s=round(took_s, 3),
            command=self._command,
            commit=commit.removesuffix("+"),
            is_dirty=commit.endswith("+"),
            machine=machine,
            versions=versions | qemu | self._versions,
            steal_share=round(steal_share(took_s, read_steal_ms() - self._steal_ms), 4),
            files=files,
        )


def list_files(directory: Path) -> list[str]:
    """Everything below a directory that is no directory itself, by relative path."""
    found = directory.rglob("*")
    return sorted(
        one.relative_to(directory).as_posix()
        for one in found
        if one.is_symlink() or not one.is_dir()
    )


def _require_bundle(directory: Path) -> None:
    if directory.exists() and not (directory / MANIFEST).is_file():
        raise UsageError(
            ErrorCode.REQUEST_INVALID,
            f"writing a bundle to {str(directory)!r}: it is there, and no bundle",
            hint="name a directory that is not there yet",
        )


def _lock(directory: Path, owned: ExitStack) -> None:
    """The lock of a writer that was killed is gone with it."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    owned.callback(os.close, fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise UsageError(
            ErrorCode.REQUEST_INVALID,
            f"writing a bundle in {str(directory)!r}: another run does so",
            hint="wait for it, or write elsewhere",
        ) from exc


def _empty(directory: Path) -> None:
    for one in directory.iterdir():
        if one.is_dir() and not one.is_symlink():
            shutil.rmtree(one)
        else:
            one.unlink()
