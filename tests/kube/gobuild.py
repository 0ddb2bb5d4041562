"""Build a Go module's programs once into a folder whose name says what was built from what."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.kube.process import tail_of

MIN_GO = (1, 25)
BUILD_LIMIT_S = 3600.0
PROGRESS_S = 15.0
FLAGS = ("-trimpath", "-buildvcs=false", "-v")
LINKER = "-s -w"

Say = Callable[[str], None]


class NoClusterError(Exception):
    """No cluster can be had on this machine: which step failed, and why."""

    def __init__(self, step: str, why: str) -> None:
        super().__init__(f"{step}: {why}")
        self.step = step
        self.why = why


@dataclass(frozen=True)
class Recipe:
    """One Go module below tests/kube/go, and what to make of it.

    Args: name: of the folder that results. module: the folder with go.mod. package: its main
    package, None to compile nothing. program: the file it becomes. links: names that lead to it.
    source: a module that it requires, from which `copies` (glob patterns) are taken, so that they
    are found without Go's module cache. version_of: a module whose version the program reports.
    """

    name: str
    module: Path
    package: str | None = None
    program: str = ""
    links: tuple[str, ...] = ()
    source: str | None = None
    copies: tuple[str, ...] = ()
    version_of: str | None = None


def say(line: str) -> None:
    """Tell a person who waits."""
    print(line, file=sys.stderr, flush=True)


def parse_go_version(text: str) -> tuple[int, int] | None:
    """Major, minor from the output of `go version`; None when it has another form."""
    found = re.search(r"\bgo(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def required_version(go_mod: str, module: str) -> str:
    """The version that a go.mod requires `module` in. Raises: ValueError when it does not."""
    found = re.search(rf"(?:^|\s){re.escape(module)} (v[^\s/]+)", go_mod)
    if found is None:
        raise ValueError(f"go.mod does not require {module}")
    return found[1]


def linker_flags(version: str | None) -> str:
    """Leave symbols out; stamp Kubernetes' version, which its own build does as well."""
    if version is None:
        return LINKER
    major, minor, _ = version.removeprefix("v").split(".", 2)
    place = "k8s.io/component-base/version"
    facts = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    return " ".join([LINKER, *(f"-X {place}.{name}={value}" for name, value in facts.items())])


def cache_key(recipe: Recipe, go_version: str) -> str:
    """A name for everything that the result follows from."""
    digest = hashlib.sha256(repr((go_version, FLAGS, LINKER, recipe.package)).encode())
    digest.update(repr((recipe.program, recipe.links, recipe.source, recipe.copies)).encode())
    for file in sorted(recipe.module.iterdir()):
        if file.name in ("go.mod", "go.sum") or file.suffix == ".go":
            raw = file.read_bytes()
            digest.update(f"{file.name} {len(raw)}\n".encode() + raw)
    return digest.hexdigest()[:16]


class GoBuilder:
    """Builds recipes into one cache folder; several processes may share it."""

    def __init__(self, cache: Path, *, go: str | None = None, tell: Say = say) -> None:
        """Args: cache: made when missing. go: the go command; found in PATH when None."""
        self._cache = cache
        self._go = go
        self._tell = tell
        self._version: str | None = None

    def obtain(self, recipe: Recipe) -> Path:
        """The folder of a recipe, built now if it was not before.

        Raises: NoClusterError naming the step that failed, with the end of its output.
        """
        target = self._cache / f"{recipe.name}-{cache_key(recipe, self._go_version())}"
        if target.is_dir():
            return target
        self._cache.mkdir(parents=True, exist_ok=True)
        with self._lock(recipe):
            if not target.is_dir():
                self._make(recipe, target)
        return target

    def _go_version(self) -> str:
        if self._version is None:
            self._go, self._version = find_go(self._go)
        return self._version

    @contextlib.contextmanager
    def _lock(self, recipe: Recipe) -> Iterator[None]:
        with (self._cache / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._tell(f"{recipe.name}: another process builds, waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _make(self, recipe: Recipe, target: Path) -> None:
        begun = time.monotonic()
        half = self._cache / f"{target.name}.half"
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir()
        if recipe.package is not None:
            self._compile(recipe, half)
        if recipe.source is not None:
            self._copy(recipe, half)
        half.rename(target)
        self._tell(f"{recipe.name}: done after {time.monotonic() - begun:.0f} s")

    def _compile(self, recipe: Recipe, half: Path) -> None:
        version = None
        if recipe.version_of is not None:
            version = required_version((recipe.module / "go.mod").read_text(), recipe.version_of)
        argv = ["nice", "-n", "10", self._go or "go", "build", *FLAGS]
        argv += ["-ldflags", linker_flags(version), "-o", str(half / recipe.program)]
        step = f"{recipe.name}: go build"
        log = self._cache / f"{recipe.name}.log"
        self._tell(f"{step}: once on this machine, minutes; its output goes to {log}")
        run_with_progress(
            [*argv, str(recipe.package)], cwd=recipe.module, log=log, step=step, tell=self._tell
        )
        for link in recipe.links:
            (half / link).symlink_to(recipe.program)

    def _copy(self, recipe: Recipe, half: Path) -> None:
        root = self._source_folder(recipe)
        for pattern in recipe.copies:
            found = sorted(root.glob(pattern))
            if not found:
                raise NoClusterError(f"{recipe.name}: copy", f"{root} has nothing like {pattern}")
            for file in found:
                place = half / "manifests" / file.relative_to(root)
                place.parent.mkdir(parents=True, exist_ok=True)
                # Not its mode: what Go keeps is read-only, its folders too.
                shutil.copyfile(file, place)

    def _source_folder(self, recipe: Recipe) -> Path:
        argv = [self._go or "go", "mod", "download", "-json", str(recipe.source)]
        self._tell(f"{recipe.name}: go mod download {recipe.source}")
        done = subprocess.run(argv, cwd=recipe.module, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NoClusterError(
                f"{recipe.name}: go mod download", (done.stderr + done.stdout)[-2000:]
            )
        return Path(json.loads(done.stdout)["Dir"])


def find_go(go: str | None) -> tuple[str, str]:
    """The go command with its version line. Raises: NoClusterError when missing or too old."""
    wanted = f"{MIN_GO[0]}.{MIN_GO[1]}"
    found = go or shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if found is None:
        raise NoClusterError("find Go", f"there is no go command; install Go {wanted} or newer")
    done = subprocess.run([found, "version"], capture_output=True, text=True, check=False)
    version = parse_go_version(done.stdout)
    if done.returncode != 0 or version is None:
        raise NoClusterError(
            "find Go", f"{found} version said {(done.stdout + done.stderr)[-500:]!r}"
        )
    if version < MIN_GO:
        raise NoClusterError("find Go", f"{done.stdout.strip()!r} is older than Go {wanted}")
    return found, done.stdout.strip()


def run_with_progress(
    argv: Sequence[str],
    *,
    cwd: Path,
    log: Path,
    step: str,
    tell: Say,
    limit_s: float = BUILD_LIMIT_S,
    progress_s: float = PROGRESS_S,
) -> None:
    """Run a long command, tell from time to time how far it is.

    Raises: NoClusterError when it fails or takes longer than `limit_s` seconds. Interruption: its
    whole process group is killed.
    """
    begun = time.monotonic()
    with log.open("wb") as out:
        child = subprocess.Popen(
            argv, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = child.wait(progress_s)
                break
            spent_s = time.monotonic() - begun
            if spent_s > limit_s:
                raise NoClusterError(step, f"not done after {limit_s:.0f} s{tail_of(log)}")
            tell(f"{step}: {spent_s:.0f} s, {last_line(log)}")
    finally:
        if child.returncode is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    if status != 0:
        raise NoClusterError(step, f"ended with {status}{tail_of(log)}")


def last_line(log: Path) -> str:
    """How many lines a log has, with the last one."""
    lines = log.read_text(errors="replace").splitlines()
    return f"{len(lines)} packages, now {lines[-1]}" if lines else "nothing compiled yet"
