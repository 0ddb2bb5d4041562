"""Do what docs/install.md says, word for word, on a machine that has nothing else."""

from __future__ import annotations

import json
import re
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Final

from agentd.errors import ErrorCode, PermanentError
from tests.package.made import ROOT
from tests.package.root import DebianRoot
from tests.package.tree import left_behind, read_tree

PAGE: Final = ROOT / "docs" / "install.md"
VENV: Final = "/opt/snapstart"
# pip as offline as can be: what the locks name has to do.
_OFFLINE: Final = {
    "PIP_NO_INDEX": "1",
    "PIP_FIND_LINKS": "/release",
    "PIP_NO_CACHE_DIR": "1",
    "DEBIAN_FRONTEND": "noninteractive",
}
# What doctor tells a person to type.
_TOLD: Final = re.compile(r"apt-get (?:update|install [\w.-]+(?: [\w.-]+)*)")
_OURS: Final = re.compile(
    rf"{VENV}/.*/(agentd|controlplane|snapctl|agentcube_snapstart[^/]*|snapstart[^/]*)(/|$)"
)
_PROGRAM: Final = re.compile(r"^ExecStart=(/usr/bin/\S+)", re.M)
_NEEDS_DAEMON: Final = {"socket", "daemon"}
_START_S: Final = 60.0


@dataclass(frozen=True)
class Kind:
    """A form of the package, and the section about installing it."""

    name: str
    title: str


WHEEL: Final = Kind("wheel", "From the wheel")
SDIST: Final = Kind("sdist", "From the source package")


def blocks(title: str) -> list[str]:
    """The shell commands of a section of the page."""
    text = PAGE.read_text()
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert found, f"{PAGE.name} has no section {title!r}"
    return re.findall(r"^```sh\n(.*?)^```$", found[1], re.M | re.S)


def do(root: DebianRoot, script: str) -> str:
    """Type commands in the directory of the release; returns what they print."""
    return root.run("sh", "-euc", f"cd /release\n{script}", environ=_OFFLINE)


def walk(root: DebianRoot, version: str, kind: Kind) -> dict[str, Any]:
    """From installing to removing. Returns: facts for the report. Raises: PermanentError."""
    root.run("apt-get", "update", "-qq")
    of_debian, of_ours = blocks(kind.title)[0].split("\n", 1)
    do(root, of_debian)
    empty = read_tree(root.path)
    do(root, of_ours)
    check_versions(root, version)
    expect_only({VENV}, left_behind(empty, read_tree(root.path)), "installing")
    told = do_as_doctor_tells(root)
    before, held = read_tree(root.path), held_by_kernel(root)
    demo = run_demo(root)
    serve_once(root)
    link_for_units(root)
    left = remove(root, {path: row for path, row in before.items() if not is_below(path, VENV)})
    more = held_by_kernel(root) - held
    expect(not more, f"using and removing it left {sorted(more)}")
    return {"kind": kind.name, "told": told, "left": left, "fork_ms": fork_times(demo)}


def held_by_kernel(root: DebianRoot) -> set[str]:
    """What is in no file system of a disk: shared memory, control groups of machines."""
    # Groups of others come and go meanwhile.
    find = "find /dev/shm /sys/fs/cgroup -ignore_readdir_race"
    return {path for path in root.run(*find.split()).splitlines() if is_held(path)}


def is_held(path: str) -> bool:
    """Whether somebody made it, and that may be us."""
    place, _, name = path.rpartition("/")
    return is_below(place, "/dev/shm") or name.startswith("snapstart-")


def check_versions(root: DebianRoot, version: str) -> None:
    """Programs, module, metadata say the same."""
    ask = "import agentd, importlib.metadata as m; print(agentd.__version__, m.version('{}'))"
    answers = {
        root.run("agentd", "--version").split()[-1],
        root.run("snapctl", "--version").split()[-1],
        root.run("snapstart-controlplane", "--version").split()[-1],
        *root.run(f"{VENV}/bin/python", "-c", ask.format("agentcube-snapstart")).split(),
    }
    expect(answers == {version}, f"built {version}, installed: {sorted(answers)}")


def ask_doctor(root: DebianRoot) -> tuple[int, list[dict[str, Any]]]:
    """Its exit status, the checks that are not ok."""
    done = root.try_to("snapctl", "doctor", "--json")
    checks = json.loads(done.out)["checks"]
    return done.status, [one for one in checks if one["level"] != "ok"]


def do_as_doctor_tells(root: DebianRoot) -> list[str]:
    """Type the commands of its hints, until nothing but a daemon is missing; returns them."""
    do(root, blocks(WHEEL.title)[1])
    status, wrong = ask_doctor(root)
    expect(status == ErrorCode.CONFIG_INVALID.exit_code, f"doctor ended with {status}: {wrong}")
    told = sorted({text for one in wrong for text in _TOLD.findall(one["hint"])}, reverse=True)
    for command in told:
        do(root, command.replace("install", "install -y --no-install-recommends"))
    failed = {one["name"] for one in ask_doctor(root)[1] if one["level"] == "fail"}
    expect(failed == _NEEDS_DAEMON, f"after {told} doctor still finds {sorted(failed)}")
    return told


def run_demo(root: DebianRoot) -> dict[str, Any]:
    """Fork real machines. Returns: what it prints with --json."""
    command = blocks(WHEEL.title)[-1].strip()
    document: dict[str, Any] = json.loads(root.run("sh", "-c", f"{command} --json"))
    expect(len(document["fork_ms"]) == 2, f"the demo forked {document['fork_ms']!r}")
    return document


def fork_times(demo: dict[str, Any]) -> list[float]:
    """Milliseconds of each fork."""
    return [sample["ms"] for sample in demo["fork_ms"]]


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
        root.terminate(f"{VENV}/bin/agentd serve")
        _, said = daemon.communicate(timeout=60)
    expect(daemon.returncode == 0, f"agentd ended with {daemon.returncode}: {said[-500:]}")


def link_for_units(root: DebianRoot) -> None:
    """Every program that a unit starts is where the unit looks for it."""
    [linked] = blocks("As a service")
    do(root, linked)
    for program in sorted(programs_of_units(root.path / VENV.lstrip("/") / "systemd")):
        root.run("test", "-x", program)


def programs_of_units(directory: Path) -> set[str]:
    """What the units in a directory start, of ours."""
    texts = [unit.read_text() for unit in directory.glob("*.service")]
    return {program for text in texts for program in _PROGRAM.findall(text)}


def remove(root: DebianRoot, before: dict[str, Any]) -> list[str]:
    """Away with everything. Returns: what was left until the data was removed too."""
    package, data = blocks("Remove")
    asked, uninstalled, removed = package.split("\n", 2)
    named = named_directories(do(root, asked))
    do(root, uninstalled)
    ours = [path for path in read_tree(root.path) if _OURS.match(path)]
    expect(not ours, f"uninstalling left {ours}")
    do(root, removed)
    left = left_behind(before, read_tree(root.path))
    expect_only(named, left, "using and removing it")
    expect(not root.processes(), f"still running: {root.processes()}")
    do(root, data)
    expect_only(set(), left_behind(before, read_tree(root.path)), "removing its data")
    return left


def named_directories(said: str) -> set[str]:
    """What `agentd config check` says where data is; its lines are TOML."""
    return set(tomllib.loads(said).values())


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
