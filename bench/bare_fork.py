"""Fork a warm guest with the standard library alone: the floor that agentd is measured against.

The recipe, with nothing around it: boot the image in QEMU on a memfd, take the guest's baseline,
stop, save the device state without the RAM, seal the memfd; then start QEMU on a private mapping
of it, inject an identity, run one line of code. One process, blocking sockets, no daemon, no
journal, no checks.

    python -m bench.bare_fork IMAGE_DIRECTORY --count 5
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

MARKER = bytes.fromhex("f5534e4150f75354415254fb4d5831ff")
MAGIC = b"SF"
HELLO, HELLO_ACK, OPEN, DATA, CLOSE, RESET = 1, 2, 3, 4, 5, 6
NUMPY_REQUEST = "import numpy; print(int(numpy.arange(1000).sum()))"
TRIVIAL_REQUEST = "print(1 + 1)"
ALL_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
STOPPED_SOURCE = ("-global", "migration.store-global-state=off")


class Guest:
    """One connection to a guest's channel: blocking, one stream after the other."""

    def __init__(self, path: str) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(path)
        self._epoch = os.urandom(16)
        self._buffer = bytearray()
        self._stream = 1

    def send_hello(self) -> None:
        """Write the marker with a HELLO; the guest reads it when it runs."""
        self._sock.sendall(MARKER + self._frame(HELLO, 0, self._epoch))

    def await_hello(self, timeout_s: float) -> None:
        """Skip everything up to the guest's answer."""
        wanted = MARKER + self._frame(HELLO_ACK, 0, self._epoch)
        self._sock.settimeout(timeout_s)
        while (at := self._buffer.find(wanted)) < 0:
            self._fill()
        del self._buffer[: at + len(wanted)]

    def _fill(self) -> None:
        data = self._sock.recv(65536)
        if not data:
            raise ConnectionError("the guest's channel was closed")
        self._buffer += data

    @staticmethod
    def _frame(kind: int, stream: int, payload: bytes) -> bytes:
        return struct.pack(">2sBBII", MAGIC, kind, 0, stream, len(payload)) + payload

    def open(self, service: str, message: bytes = b"") -> None:
        """Open a stream, optionally with its first bytes."""
        head = self._frame(OPEN, self._stream, json.dumps({"service": service}).encode())
        self._sock.sendall(head + (self._frame(DATA, self._stream, message) if message else b""))

    def send(self, message: dict[str, Any]) -> None:
        """Write one message on the open stream."""
        self._sock.sendall(self._frame(DATA, self._stream, pack(message)))

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yield the open stream's messages until the guest ends it; then leave the stream."""
        body = bytearray()
        while True:
            kind, stream, payload = self._read_frame()
            if stream != self._stream:
                continue
            if kind == RESET:
                raise ConnectionError(payload.decode())
            if kind == CLOSE:
                self._sock.sendall(self._frame(CLOSE, stream, b""))
                self._stream += 2
                return
            if kind == DATA:
                body += payload
                while len(body) >= 4 and len(body) >= 4 + (size := int.from_bytes(body[:4])):
                    message = bytes(body[4 : 4 + size])
                    del body[: 4 + size]
                    yield json.loads(message)

    def _read_frame(self) -> tuple[int, int, bytes]:
        while len(self._buffer) < 12:
            self._fill()
        _, kind, _, stream, size = struct.unpack_from(">2sBBII", self._buffer)
        while len(self._buffer) < 12 + size:
            self._fill()
        payload = bytes(self._buffer[12 : 12 + size])
        del self._buffer[: 12 + size]
        return kind, stream, payload

    def ask(self, service: str, message: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Open a stream, send one message, collect the answers."""
        self.open(service, pack(message) if message else b"")
        return list(self.messages())

    def close(self) -> None:
        """Close the host's end."""
        self._sock.close()


def pack(message: dict[str, Any]) -> bytes:
    """A message with its length."""
    body = json.dumps(message).encode()
    return len(body).to_bytes(4) + body


class Monitor:
    """A blocking QMP connection."""

    def __init__(self, path: str) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(path)
        self._lines = self._sock.makefile("rb")

    def write(self, *commands: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send commands without waiting for their replies."""
        data = b"".join(json.dumps(command).encode() + b"\n" for command in commands)
        socket.send_fds(self._sock, [data], fds)

    def wait_for(self, event: str, **data: str) -> None:
        """Read lines until an event with this data."""
        while line := self._lines.readline():
            message = json.loads(line)
            if "error" in message:
                raise RuntimeError(message["error"]["desc"])
            if message.get("event") == event and data.items() <= message.get("data", {}).items():
                return
        raise ConnectionError("the monitor hung up")

    def run(
        self, name: str, arguments: dict[str, Any] | None = None, *, fds: Sequence[int] = ()
    ) -> None:
        """Send one command; read up to its reply."""
        self.write({"execute": name, "id": name, "arguments": arguments or {}}, fds=fds)
        while line := self._lines.readline():
            message = json.loads(line)
            if "error" in message:
                raise RuntimeError(message["error"]["desc"])
            if message.get("id") == name:
                return
        raise ConnectionError("the monitor hung up")

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()
        self._sock.close()


@dataclass
class Machine:
    """A QEMU process with its two sockets; `kill` releases all of it."""

    process: subprocess.Popen[bytes]
    guest: Guest
    monitor: Monitor
    directory: str

    def kill(self) -> None:
        """End the process, reap it, remove its sockets."""
        self.process.kill()
        self.process.wait()
        self.guest.close()
        self.monitor.close()
        shutil.rmtree(self.directory)


@dataclass(frozen=True)
class Sample:
    """One fork: milliseconds since the request, per stage."""

    started_at: float
    total_ms: float
    stages_ms: dict[str, float] = field(default_factory=dict)
    answer: str = ""


def machine_argv(qemu: str, accel: str, memory_mib: int, memory_fd: int, share: bool) -> list[str]:
    """The part of the command line that a template and its forks have in common."""
    tcg = accel == "tcg"
    ram = f"memory-backend-file,id=mem,size={memory_mib}M,mem-path=/proc/self/fd/{memory_fd}"
    return [
        *(qemu, "-M", "pc-i440fx-7.2,memory-backend=mem,dump-guest-core=off"),
        *("-accel", "tcg,thread=multi" if tcg else accel),
        *("-object", f"{ram},share={'on' if share else 'off'}"),
        *("-cpu", "qemu64,+rdrand" if tcg else "host,-svm,-vmx"),
        *("-m", str(memory_mib), "-smp", "1"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-vga", "none"),
        *("-chardev", "ringbuf,id=console,size=65536", "-serial", "chardev:console"),
        *("-device", "virtio-serial-pci"),
        *("-device", "virtserialport,chardev=channel,name=org.snapstart.channel.0"),
        "-no-reboot",
    ]


def listen(path: str) -> socket.socket:
    """A listening socket that the machine inherits."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen(1)
    return sock


class BareTemplate:
    """A frozen guest; `fork` starts copies of it. Use as a context manager."""

    def __init__(
        self, image: Path, *, qemu: str, accel: str = "tcg", memory_mib: int = 512
    ) -> None:
        self._image = image
        self._qemu = qemu
        self._accel = accel
        self._memory_mib = memory_mib
        self._memory = os.memfd_create("memory", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._state = os.memfd_create("state", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self._memory, memory_mib << 20)

    def __enter__(self) -> BareTemplate:
        try:
            self._build()
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
        os.close(self._memory)
        os.close(self._state)

    def _start(
        self, extra: Sequence[str], *, share: bool, fds: Sequence[int], script: Sequence[Any] = ()
    ) -> Machine:
        directory = tempfile.mkdtemp(prefix="bare-")
        with listen(f"{directory}/qmp") as qmp, listen(f"{directory}/channel") as channel:
            monitor, guest = Monitor(f"{directory}/qmp"), Guest(f"{directory}/channel")
            monitor.write({"execute": "qmp_capabilities"}, *script)
            guest.send_hello()
            sockets = [
                *("-chardev", f"socket,id=qmp,fd={qmp.fileno()},server=on,wait=off"),
                *("-mon", "chardev=qmp,mode=control"),
                *("-chardev", f"socket,id=channel,fd={channel.fileno()},server=on,wait=off"),
            ]
            argv = machine_argv(self._qemu, self._accel, self._memory_mib, self._memory, share)
            inherited = [qmp.fileno(), channel.fileno(), self._memory, *fds]
            process = subprocess.Popen(
                [*argv, *sockets, *extra], pass_fds=inherited, stdin=subprocess.DEVNULL
            )
        return Machine(process, guest, monitor, directory)

    def boot(self) -> Machine:
        """Start the image cold; its RAM is this template's memory."""
        about = json.loads((self._image / "image.json").read_text())
        boot = [
            *("-kernel", str(self._image / about["kernel"]["name"])),
            *("-initrd", str(self._image / about["initrd"]["name"])),
            *("-append", " ".join(about["cmdline"]), *STOPPED_SOURCE),
        ]
        return self._start(boot, share=True, fds=())

    def _build(self) -> None:
        machine = self.boot()
        try:
            machine.guest.await_hello(120)
            machine.guest.ask("checkpoint", {"op": "baseline"})
            self._save(machine.monitor)
        finally:
            machine.kill()
        for fd in (self._memory, self._state):
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, ALL_SEALS)

    def _save(self, monitor: Monitor) -> None:
        monitor.run("stop")
        wanted = [{"capability": name, "state": True} for name in ("events", "x-ignore-shared")]
        monitor.run("migrate-set-capabilities", {"capabilities": wanted})
        monitor.run("migrate-set-parameters", {"max-bandwidth": 1 << 40})
        monitor.run("getfd", {"fdname": "state"}, fds=[self._state])
        monitor.run("migrate", {"uri": "fd:state"})
        monitor.wait_for("MIGRATION", status="completed")

    def fork(self, code: str) -> tuple[Machine, Sample]:
        """Fork once, inject an identity, run `code`; the caller kills the machine."""
        started_at, begin = time.time(), time.perf_counter_ns()
        stages: dict[str, float] = {}

        def reached(stage: str) -> None:
            stages[stage] = (time.perf_counter_ns() - begin) / 1e6

        # A file description of its own: forks must not share the read offset.
        state = os.open(f"/proc/self/fd/{self._state}", os.O_RDONLY | os.O_CLOEXEC)
        wanted = [{"capability": name, "state": True} for name in ("events", "x-ignore-shared")]
        script = (
            {"execute": "migrate-set-capabilities", "arguments": {"capabilities": wanted}},
            {"execute": "migrate-incoming", "arguments": {"uri": f"fd:{state}"}},
        )
        try:
            machine = self._start(["-incoming", "defer"], share=False, fds=[state], script=script)
        finally:
            os.close(state)
        reached("spawn")
        try:
            machine.guest.open("inject", pack(prepare_message()))
            machine.monitor.wait_for("MIGRATION", status="completed")
            reached("load")
            machine.guest.await_hello(60)
            reached("guest_ready")
            self._inject(machine.guest)
            reached("inject")
            answers = machine.guest.ask(
                "execute", {"execution_id": "1", "code": code, "timeout_s": None}
            )
            reached("reply")
        except BaseException:
            machine.kill()
            raise
        answer = "".join(m.get("text", "") for m in answers if m["type"] == "stdout")
        return machine, Sample(started_at, stages["reply"], stages, answer)

    @staticmethod
    def _inject(guest: Guest) -> None:
        for message in guest.messages():
            if message["type"] == "READY":
                guest.send({"type": "COMMIT", "wall_clock_ns": time.time_ns(), "held_ns": 0})
            elif message["type"] not in ("CAPABILITIES", "STARTED"):
                raise RuntimeError(f"inject: the guest said {message}")


def prepare_message() -> dict[str, Any]:
    """A fresh identity."""
    context = {
        "session_id": uuid.uuid4().hex,
        "hostname": f"bare-{os.urandom(4).hex()}",
        "machine_id": uuid.uuid4().hex,
        "entropy": base64.b64encode(os.urandom(64)).decode(),
        "workspace": "/workspace",
    }
    return {
        "type": "PREPARE",
        "task_id": context["session_id"],
        "env_overrides": {},
        "context": json.dumps(context),
    }


def main() -> None:
    """Print one JSON line per fork."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("image", type=Path, help="a directory made by `snapctl image build`")
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--code", default=NUMPY_REQUEST)
    parser.add_argument("--qemu", default="qemu-system-x86_64")
    parser.add_argument("--accel", default="tcg", choices=("tcg", "kvm"))
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with BareTemplate(args.image, qemu=args.qemu, accel=args.accel) as template:
        for _ in range(args.count):
            machine, sample = template.fork(args.code)
            machine.kill()
            print(json.dumps({"total_ms": sample.total_ms, **sample.stages_ms}), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
