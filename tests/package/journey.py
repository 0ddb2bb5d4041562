"""What a user does with a package on a clean machine, from installing it to removing it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final

from agentd.errors import ErrorCode, PermanentError
from tests.package.made import Made
from tests.package.root import DebianRoot
from tests.package.tree import left_behind, read_tree

VENV: Final = "/opt/snapstart"
_PYTHON: Final = f"{VENV}/bin/python"
_APT: Final = ("apt-get", "install", "-y", "-qq", "--no-install-recommends")
_QUIET: Final = {"DEBIAN_FRONTEND": "noninteractive"}
# pip as offline as can be: what the locks name has to do.
_PIP: Final = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels", "PIP_NO_CACHE_DIR": "1"}
_DISTRIBUTION: Final = "agentcube-snapstart"
# What doctor tells a person to type.
_TOLD: Final = re.compile(r"apt-get (?:update|install [\w.-]+(?: [\w.-]+)*)")
_OURS: Final = re.compile(
    rf"{VENV}/.*/(agentd|controlplane|snapctl|agentcube_snapstart[^/]*|snapstart[^/]*)(/|$)"
)
_NEEDS_DAEMON: Final = {"socket", "daemon"}
_START_S: Final = 60.0


@dataclass(frozen=True)
class Kind:
    """A form of the package, and the Debian packages that installing it takes."""

    name: str
    debian: Sequence[str]


WHEEL: Final = Kind("wheel", ("python3-venv",))
SDIST: Final = Kind(
    "sdist", ("python3-venv", "python3-dev", "gcc", "libc6-dev", "make", "libxxhash-dev")
)


def install(root: DebianRoot, made: Made, kind: Kind) -> None:
    """As docs/install.md has it, with all that is downloaded at hand."""
    root.run("python3", "-m", "venv", VENV)
    pip = (_PYTHON, "-m", "pip", "install", "--quiet")
    root.run(*pip, "--require-hashes", "-r", "/wheels/runtime.txt", **_PIP)
    file = made.wheel if kind is WHEEL else made.sdist
    root.run(*pip, "--no-deps", f"/wheels/{file.name}", **_PIP)


def prepare(root: DebianRoot, kind: Kind) -> None:
    """Have what Debian has to bring before anything of ours comes."""
    root.run("apt-get", "update", "-qq", **_QUIET)
    root.run(*_APT, *kind.debian, **_QUIET)


def check_versions(root: DebianRoot, version: str) -> None:
    """Programs, module, metadata, page server say the same."""
    ask = "import agentd, importlib.metadata as m; print(agentd.__version__, m.version('{}'))"
    answers = {
        root.run("agentd", "--version").split()[-1],
        root.run("snapctl", "--version").split()[-1],
        root.run("snapstart-controlplane", "--version").split()[-1],
        *root.run(_PYTHON, "-c", ask.format(_DISTRIBUTION)).split(),
    }
    expect(answers == {version}, f"built {version}, installed: {sorted(answers)}")


def ask_doctor(root: DebianRoot) -> tuple[int, list[dict[str, Any]]]:
    """Its exit status, the checks that are not ok."""
    done = root.try_to("snapctl", "doctor", "--json")
    checks = json.loads(done.out)["checks"]
    return done.status, [one for one in checks if one["level"] != "ok"]


def do_as_doctor_tells(root: DebianRoot) -> list[str]:
    """Type the commands of its hints, until nothing but a daemon is missing; returns them."""
    status, wrong = ask_doctor(root)
    expect(status == ErrorCode.CONFIG_INVALID.exit_code, f"doctor ended with {status}: {wrong}")
    told = sorted({text for one in wrong for text in _TOLD.findall(one["hint"])}, reverse=True)
    for command in told:
        root.run(*command.split(), *_APT[2:] * ("install" in command), **_QUIET)
    failed = {one["name"] for one in ask_doctor(root)[1] if one["level"] == "fail"}
    expect(failed == _NEEDS_DAEMON, f"after {told} doctor still finds {sorted(failed)}")
    return told


def run_demo(root: DebianRoot) -> dict[str, Any]:
    """Fork real machines. Returns: what `snapctl demo --json` prints."""
    document: dict[str, Any] = json.loads(root.run("snapctl", "demo", "--forks", "2", "--json"))
    expect(len(document["fork_ms"]) == 2, f"the demo forked {document['fork_ms']!r}")
    return document


def serve_once(root: DebianRoot) -> None:
    """A daemon starts, doctor has nothing left to say, it stops."""
    daemon = root.start("agentd", "serve")
    try:
        give_up = time.monotonic() + _START_S
        status, wrong = ask_doctor(root)
        while status and time.monotonic() < give_up and daemon.poll() is None:
            time.sleep(0.2)
            status, wrong = ask_doctor(root)
        expect(status == 0, f"doctor beside a running agentd: {wrong}")
    finally:
        # nsenter does not hand signals on.
        root.run(_PYTHON, "-c", _STOP)
        _, said = daemon.communicate(timeout=60)
    expect(daemon.returncode == 0, f"agentd ended with {daemon.returncode}: {said[-500:]}")


_STOP: Final = """
import psutil
for process in psutil.process_iter():
    if process.cmdline()[1:] == ["/opt/snapstart/bin/agentd", "serve"]:
        process.terminate()
"""


def named_directories(root: DebianRoot) -> set[str]:
    """Where agentd says that it keeps things."""
    shown = root.run("agentd", "config", "check")
    found = dict(re.findall(r'^(data_dir|run_dir|image_cache_dir) = "(.+)"$', shown, re.M))
    return set(found.values())


def uninstall(root: DebianRoot) -> None:
    """Away with the package, then with the environment that only it was in."""
    root.run(_PYTHON, "-m", "pip", "uninstall", "--quiet", "--yes", _DISTRIBUTION)
    ours = [path for path in read_tree(root.path) if _OURS.match(path)]
    expect(not ours, f"uninstalling left {ours}")
    root.run("rm", "-r", VENV)


def walk(root: DebianRoot, made: Made, kind: Kind) -> dict[str, Any]:
    """The whole way. Returns: facts for the report. Raises: PermanentError."""
    prepare(root, kind)
    empty = read_tree(root.path)
    install(root, made, kind)
    check_versions(root, made.version)
    expect_only({VENV}, left_behind(empty, read_tree(root.path)), "installing")
    told = do_as_doctor_tells(root)
    before = read_tree(root.path)
    demo = run_demo(root)
    serve_once(root)
    named = named_directories(root)
    uninstall(root)
    kept = {path: facts for path, facts in before.items() if not is_below(path, VENV)}
    left = left_behind(kept, read_tree(root.path))
    expect_only(named, left, "using and removing it")
    running = root.processes()
    expect(not running, f"still running: {running}")
    return {"kind": kind.name, "told": told, "left": left, "fork_ms": demo["fork_ms"]}


def is_below(path: str, directory: str) -> bool:
    """Whether it is that directory, or in it."""
    return PurePath(path).is_relative_to(directory)


def expect_only(allowed: set[str], found: Sequence[str], what: str) -> None:
    """Raises: PermanentError unless all that is found lies in what is allowed."""
    strange = [path for path in found if not any(is_below(path, one) for one in allowed)]
    expect(not strange, f"{what} left or changed {strange}")


def expect(is_so: bool, otherwise: str) -> None:
    """Raises: PermanentError unless it is so."""
    if not is_so:
        raise PermanentError(ErrorCode.INTERNAL, f"trying the package: {otherwise}")
