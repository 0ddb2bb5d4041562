"""A Debian of its own: a directory with processes, mounts that nothing outside sees."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from agentd.errors import ErrorCode, PermanentError
from tests.package.made import ROOT, run

SUITE = "bookworm"
BASE = ROOT / "build" / "roots" / f"{SUITE}.tar"
# $1 is the root, what follows are its own mounts.
_COMMON = """
mount -t proc proc "$1/proc"
mount --rbind /sys "$1/sys"
mount --rbind /dev "$1/dev"
mount -t tmpfs tmpfs "$1/dev/shm"
"""
# $2: the directory of a release.
_WITH_RELEASE = 'mount --bind "$2" "$1/release"'
# The first process of a process namespace is the parent of all who lost theirs.
_INIT = """
import os, time
print(os.getpid(), flush=True)
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.05)
"""
_PATH = "/opt/snapstart/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def make_base() -> Path:
    """The archive of a minimal Debian, made once. Raises: PermanentError."""
    if BASE.exists():
        return BASE
    if os.geteuid() != 0:
        message = "making a Debian of its own: this user may not"
        raise PermanentError(ErrorCode.PERMISSION_DENIED, message, hint="run it as root")
    BASE.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="snapstart-base-") as scratch:
        # From the mirror that debootstrap takes by itself.
        run("debootstrap", "--variant=minbase", SUITE, f"{scratch}/root")
        shutil.rmtree(f"{scratch}/root/var/cache/apt/archives", ignore_errors=True)
        unfinished = BASE.with_suffix(".new")
        run("tar", "-C", f"{scratch}/root", "-cf", str(unfinished), ".")
        unfinished.rename(BASE)
    return BASE


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    said: str


@dataclass(frozen=True)
class DebianRoot:
    """A running one. path: its directory. init: pid of its first process, as seen from here."""

    path: Path
    init: int

    def start(
        self, *argv: str, user: int = 0, environ: Mapping[str, str] = {}
    ) -> subprocess.Popen[str]:
        """Start a command there in an environment that holds nothing else."""
        enter = ["nsenter", "--target", str(self.init), "--mount", "--pid"]
        chroot = ["chroot", f"--userspec={user}:{user}", str(self.path)]
        given = {"PATH": _PATH, "HOME": "/root", "LANG": "C.UTF-8", **environ}
        clean = ["/usr/bin/env", "-i", *(f"{name}={value}" for name, value in given.items())]
        return subprocess.Popen(
            [*enter, *chroot, *clean, *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )

    def try_to(
        self, *argv: str, user: int = 0, timeout_s: float = 900, environ: Mapping[str, str] = {}
    ) -> Done:
        """Run a command to its end, whatever that is."""
        process = self.start(*argv, user=user, environ=environ)
        try:
            out, said = process.communicate(timeout=timeout_s)
        except BaseException:
            process.kill()
            process.wait()
            raise
        return Done(process.returncode, out, said)

    def run(
        self, *argv: str, user: int = 0, timeout_s: float = 900, environ: Mapping[str, str] = {}
    ) -> str:
        """What a command printed. Raises: PermanentError when it fails."""
        done = self.try_to(*argv, user=user, timeout_s=timeout_s, environ=environ)
        if done.status:
            said = (done.out + done.said)[-2000:].strip()
            message = f"running {' '.join(argv)!r}: status {done.status}, it said:\n{said}"
            raise PermanentError(ErrorCode.INTERNAL, message)
        return done.out

    def processes(self) -> list[str]:
        """The command lines of all that runs there, its first process apart."""
        return [" ".join(process.cmdline()) for process in self._processes()]

    def terminate(self, command: str) -> None:
        """Send SIGTERM to what has such a command line; nsenter hands no signal on."""
        for process in self._processes():
            if " ".join(process.cmdline()).endswith(command):
                process.terminate()

    def _processes(self) -> Iterator[psutil.Process]:
        ours = os.readlink(f"/proc/{self.init}/ns/pid")
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                if process.pid != self.init and os.readlink(f"/proc/{process.pid}/ns/pid") == ours:
                    yield process


@contextlib.contextmanager
def running(path: Path, mounts: str, *words: str) -> Iterator[DebianRoot]:
    """A root with namespaces of its own: all processes, mounts in it end with the block.

    mounts: shell commands, for which $1 is the root, $2 and more are the words.
    """
    share = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
    script = f'set -eu\n{mounts}{_COMMON}exec "$0" -c {shlex.quote(_INIT)}'
    argv = (*share, "sh", "-c", script, sys.executable, str(path), *words)
    holder = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        if not holder.stdout.readline():
            raise PermanentError(ErrorCode.INTERNAL, f"mounting {str(path)!r} failed")
        children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text()
        yield DebianRoot(path, int(children.split()[0]))
    finally:
        holder.kill()
        holder.wait()
        if holder.stdout is not None:
            holder.stdout.close()


@contextlib.contextmanager
def debian_root(release: Path) -> Iterator[DebianRoot]:
    """A fresh Debian with `release` at /release; nothing of it is there afterwards."""
    base = make_base()
    with tempfile.TemporaryDirectory(prefix="snapstart-root-") as scratch:
        path = Path(scratch) / "root"
        with tarfile.open(base) as archive:
            archive.extractall(path, filter="fully_trusted")
        (path / "release").mkdir()
        with running(path, _WITH_RELEASE, str(release)) as root:
            yield root
