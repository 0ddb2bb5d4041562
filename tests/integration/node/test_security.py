"""What other users of the host reach, where secrets are not, with a real daemon, machines."""

from __future__ import annotations

import os
import re
import socket
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from agentd.client import Sandbox
from agentd.errors import ErrorCode, SnapStartError
from agentd.image import Image
from bench.demo import IMAGES, MEMORY_MIB
from bench.node import Node
from tests.integration.node.conftest import TEMPLATE

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
NOBODY = 65534
BLOCK_BYTES = 1 << 20


@pytest.fixture(scope="module")
def secret() -> str:
    """What must not be found, so unlike anything else that it cannot be there by chance."""
    return f"planted-{uuid.uuid4().hex}"


@pytest.fixture(scope="module")
def planted(secret: str, guest_image: Image) -> Iterator[Node]:
    """A daemon that logs all it can, with a secret in each variable that may hold one."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("KUASAR_PROXY_TOKEN", "REDIS_PASSWORD", "VALKEY_PASSWORD"):
            patch.setenv(name, secret)
        with Node(IMAGES, MACHINES__MEMORY_MIB=str(MEMORY_MIB), LOG__LEVEL="debug") as running:
            running.build_template(TEMPLATE, str(guest_image.directory))
            yield running


def contains(path: Path, wanted: bytes) -> bool:
    """Whether a file has these bytes anywhere, holes included."""
    before = b""
    with path.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            if wanted in before + block:
                return True
            before = block[-len(wanted) :]
    return False


def files_with(root: Path, wanted: str) -> list[str]:
    """Regular files below a directory that hold a text."""
    files = (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    return [str(path.relative_to(root)) for path in files if contains(path, wanted.encode())]


def processes_with(wanted: str, *, but: set[int]) -> list[str]:
    """Processes of the host in whose arguments or environment a text is."""
    found = []
    for pid in (entry.name for entry in Path("/proc").iterdir() if entry.name.isdecimal()):
        for part in ("cmdline", "environ"):
            with suppress(OSError):
                said = Path(f"/proc/{pid}/{part}").read_bytes()
                if wanted.encode() in said and (part == "cmdline" or int(pid) not in but):
                    found.append(f"{part} of {pid}")
    return found


def test_secrets_are_in_no_argument_log_file_or_template(
    planted: Node, secret: str, guest_image: Image
) -> None:
    with Sandbox.create(
        TEMPLATE, envs={"API_TOKEN": secret}, socket=planted.socket, request_timeout=180
    ) as sandbox:
        assert sandbox.run_code("import os; os.environ['API_TOKEN']").text == repr(secret)
        sandbox.files.write("secret.txt", secret.encode())
        sandbox.run_code(f"raise ValueError({secret!r})")
        with pytest.raises(SnapStartError) as refused:
            Sandbox.create(TEMPLATE, envs={"LD_PRELOAD": secret}, socket=planted.socket)
        assert refused.value.code is ErrorCode.REQUEST_INVALID
        assert secret not in str(refused.value)
        # Its own environment, and this test's, are where the variables were put.
        own = {planted.pid, os.getpid()}
        assert processes_with(secret, but=own) == []
        assert files_with(planted.root, secret) == []
    # A template that is made by a daemon which has seen secrets.
    planted.build_template("after", str(guest_image.directory))
    assert (planted.root / "data/templates/after/memory").stat().st_size == MEMORY_MIB << 20
    assert files_with(planted.root, secret) == []
    assert processes_with(secret, but=own) == []


def test_a_secret_that_is_there_is_found(planted: Node, secret: str) -> None:
    """The search above would notice."""
    leak = planted.root / "data" / "leak"
    leak.write_bytes(b"\0" * (BLOCK_BYTES - 9) + secret.encode() + b"\0")
    try:
        assert files_with(planted.root, secret) == ["data/leak"]
    finally:
        leak.unlink()
    assert f"environ of {planted.pid}" in processes_with(secret, but=set())


def as_nobody(action: Callable[[], object]) -> str:
    """What came of an action of uid nobody, in a process of its own."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        outcome = "it could"
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            action()
        except OSError as exc:
            outcome = type(exc).__name__
        os.write(write_fd, outcome.encode())
        os._exit(0)
    os.close(write_fd)
    with os.fdopen(read_fd) as stream:
        outcome = stream.read()
    os.waitpid(pid, 0)
    return outcome


def connect(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))


@pytest.fixture
def opened(planted: Node) -> Iterator[Node]:
    """The node without the private directory around it: its own modes have to do."""
    planted.root.chmod(0o755)
    yield planted
    planted.root.chmod(0o700)


def kept_by(root: Path, is_wanted: Callable[[int], bool]) -> list[Path]:
    return [path for path in root.rglob("*") if is_wanted(path.lstat().st_mode)]


@as_root
def test_another_user_of_the_host_is_let_in_nowhere(opened: Node) -> None:
    with opened.create(TEMPLATE):
        sockets = kept_by(opened.root, stat.S_ISSOCK)
        names = {path.name for path in sockets}
        assert names >= {"agentd.sock", "qmp.sock", "channel.sock"}
        assert {
            path.name: as_nobody(lambda path=path: connect(path))  # type: ignore[misc]
            for path in sockets
        } == dict.fromkeys(names, "PermissionError")


@as_root
def test_another_user_of_the_host_reads_and_writes_no_file(opened: Node) -> None:
    with opened.create(TEMPLATE):
        files = [p for p in kept_by(opened.root, stat.S_ISREG) if p != opened.log]
        assert {path.name for path in files} >= {"memory", "journal", "history.db", "vmm.log"}
        reached = [
            str(path)
            for path in files
            for flags in (os.O_RDONLY, os.O_WRONLY)
            if as_nobody(lambda: os.open(path, flags)) == "it could"  # noqa: B023
        ]
        assert reached == []


def test_no_process_of_ours_listens_on_a_network(planted: Node) -> None:
    with planted.create(TEMPLATE):
        daemon = psutil.Process(planted.pid)
        ours = [daemon, *daemon.children(recursive=True)]
        assert len(ours) > 1
        assert [p.net_connections("inet") for p in ours] == [[]] * len(ours)


def limit(pid: int, name: str) -> list[str]:
    text = Path(f"/proc/{pid}/limits").read_text()
    (found,) = re.findall(rf"^{name} +(\S+) +(\S+)", text, re.M)
    return list(found)


def test_neither_daemon_nor_machine_leaves_a_core_dump(planted: Node) -> None:
    with planted.create(TEMPLATE):
        daemon = psutil.Process(planted.pid)
        pids = [daemon.pid, *(child.pid for child in daemon.children(recursive=True))]
        assert [limit(pid, "Max core file size") for pid in pids] == [["1", "1"]] * len(pids)
        machine = pids[-1]
        smaps = Path(f"/proc/{machine}/smaps").read_text()
        # The guest's memory, and no part of it, would be in a dump either (madvise(2)).
        ram = re.findall(r"/memfd:\S+.*?VmFlags: ([^\n]*)", smaps, re.S)
        assert ram
        assert [flags for flags in ram if "dd" not in flags.split()] == []
