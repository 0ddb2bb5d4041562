"""A real page server for tests, with honest machines that are served by it."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from .raw_monitor import EVENT_REMOVE, MISSING, PAGE, RawMonitor

ROOT: Final = Path(__file__).parents[4]
PAGES: Final = 96
HOLE: Final = range(40, 56)  # pages of the image that the file has no blocks for
DIGEST: Final = "5a" * 32
_MOMENT_S: Final = 20.0
_SANITIZED: Final = "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all"


def build_pager(directory: Path = ROOT / "build" / "pager-sanitized") -> Path:
    """Compile the page server under the sanitizers; they are part of what these tests look at."""
    make = ["make", "-s", "-C", str(ROOT / "native"), f"O={directory}", f"OPTIMIZE={_SANITIZED}"]
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run([*make, "pager"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return directory / "snap-pager"


def until(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    """Wait until it holds. Raises: AssertionError after a while, with what is the matter."""
    give_up_s = time.monotonic() + _MOMENT_S
    while not condition():
        assert time.monotonic() < give_up_s, what()
        time.sleep(0.01)


class Control:
    """A connection to the control socket."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(_MOMENT_S)
        try:
            self.socket.connect(str(path))
        except BaseException:
            self.socket.close()
            raise
        self._lines = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lines.close()
        self.socket.close()

    def ask(self, op: str, **values: Any) -> dict[str, Any]:
        """One request, its answer."""
        self.socket.sendall(json.dumps({"op": op, **values}).encode() + b"\n")
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """The next line. Raises: EOFError, ConnectionError if it was hung up on."""
        line = self._lines.readline()
        if not line:
            raise EOFError
        answer: dict[str, Any] = json.loads(line)
        return answer


class PagerProcess:
    """`snap-pager serve` in a directory of its own on tmpfs. Stopped when the context is left."""

    def __init__(
        self, program: Path, *, hand_over_s: float = 60.0, extra: tuple[str, ...] = ()
    ) -> None:
        self._scratch = tempfile.TemporaryDirectory(dir="/dev/shm", prefix="pager-")
        self.directory = Path(self._scratch.name)
        self.control_path = self.directory / "control"
        self.image_path = self.directory / "image"
        self.image = self._write_image()
        journal = self.directory / "journal"
        journal.mkdir()
        argv = [str(program), "serve", "--control", str(self.control_path)]
        argv += ["--journal", str(journal), "--hand-over-s", str(hand_over_s)]
        argv += [text.replace("@", str(self.directory)) for text in extra]
        self._log = (self.directory / "log").open("wb")
        self._process = subprocess.Popen(argv, stderr=self._log)

    def __enter__(self) -> Self:
        try:
            until(self._is_answering, lambda: "the page server does not answer")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()
        self._scratch.cleanup()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def control(self) -> Control:
        return Control(self.control_path)

    def ask(self, op: str, **values: Any) -> dict[str, Any]:
        """One request on a connection of its own."""
        with self.control() as control:
            return control.ask(op, **values)

    def listen(self, vm: str, **values: Any) -> Path:
        """Have it expect a machine. Returns: the socket."""
        path = self.directory / f"{vm}.sock"
        order = {"protocol": "firecracker", "image": str(self.image_path), "digest": DIGEST}
        answer = self.ask("listen", vm=vm, socket=str(path), **{**order, **values})
        assert answer == {"ok": True}, answer
        return path

    def wait(self, vm: str, timeout_s: float = _MOMENT_S) -> dict[str, Any]:
        return self.ask("wait", vm=vm, timeout_s=timeout_s)

    def open_fds(self) -> list[str]:
        """What it holds open."""
        names = []
        for path in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                names.append(os.readlink(path))
            except FileNotFoundError:
                continue
        return sorted(names)

    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """End it as an operator does; the sanitizers then tell of leaks."""
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(_MOMENT_S) == 0, self.log[-4000:]

    def _is_answering(self) -> bool:
        assert self.is_running(), self.log
        try:
            return bool(self.ask("hello")["ok"])
        except (FileNotFoundError, ConnectionError):
            return False

    def _write_image(self) -> bytes:
        noise = random.Random(5)
        content = b""
        with self.image_path.open("wb") as file:
            file.truncate(PAGES * PAGE)
            for page in range(PAGES):
                data = bytes(PAGE) if page in HOLE else noise.randbytes(PAGE)
                if page not in HOLE:
                    file.seek(page * PAGE)
                    file.write(data)
                content += data
        return content


def message(*regions: tuple[int, int, int], page_size: int = PAGE) -> str:
    """What Firecracker says. Args: regions: address, bytes, offset in the image."""
    return json.dumps(
        [
            {
                "base_host_virt_addr": address,
                "size": size,
                "offset": offset,
                "page_size": page_size,
                "page_size_kib": page_size,
            }
            for address, size, offset in regions
        ]
    )


@dataclass
class Memory:
    """Guest memory in a monitor with its userfaultfd."""

    address: int
    uffd: int
    pages: int

    @property
    def message(self) -> str:
        """The truth about it."""
        return message((self.address, self.pages * PAGE, 0))


def make_memory(
    monitor: RawMonitor, features: int = EVENT_REMOVE, mode: int = MISSING, pages: int = PAGES
) -> Memory:
    """As a monitor does before it hands over."""
    address = monitor.ask("map", pages=pages)
    uffd = monitor.ask("uffd", features=features)
    monitor.ask("register", fd=uffd, address=address, pages=pages, mode=mode)
    return Memory(address, uffd, pages)


class HonestMachine:
    """A machine that keeps to the protocol; what it reads is compared with the image."""

    def __init__(self, pager: PagerProcess, vm: str) -> None:
        self._pager = pager
        self._vm = vm
        self.monitor = RawMonitor()
        self.memory = make_memory(self.monitor)

    def start(self) -> None:
        """Hand its memory over; it is served when this returns."""
        path = self._pager.listen(self._vm)
        sock = self.monitor.ask("connect", path=str(path))
        self.monitor.ask("send", sock=sock, text=self.memory.message, fds=[self.memory.uffd])
        answer = self._pager.wait(self._vm)
        assert answer["ok"], answer

    def check(self, first: int, pages: int) -> None:
        """Every byte of these pages is the image's."""
        found = read(self.monitor, self.memory, first, pages)
        assert found == self._pager.image[first * PAGE : (first + pages) * PAGE]

    def end(self) -> None:
        """Its monitor ends, its order is taken back."""
        self.monitor.kill()
        assert self._pager.ask("forget", vm=self._vm) == {"ok": True}


def read(monitor: RawMonitor, memory: Memory, first: int, pages: int) -> bytes:
    """What the guest reads there."""
    address = memory.address + first * PAGE
    return base64.b64decode(monitor.ask("read", address=address, pages=pages))
