"""The checkpoint sequence against a monitor that goes wrong, then against a real QEMU."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from agentd import native
from agentd.errors import ErrorCode, PeerError

QEMU = shutil.which("qemu-system-x86_64")
LONG_S = 30.0
Answer = Callable[[str], list[object]]


class Monitor:
    """A QMP server on one end of a socket pair that answers by a function."""

    def __init__(self, server: socket.socket, answer: Answer) -> None:
        self._server = server
        self._answer = answer
        self.commands: list[str] = []
        self.state = b""

    def serve(self) -> None:
        """Greet, then answer every command until the peer or the answer ends it."""
        with suppress(ConnectionError):
            self._say({"QMP": {"version": {}, "capabilities": []}})
            received = b""
            while True:
                data, fds, _, _ = socket.recv_fds(self._server, 65536, 1)
                if not data:
                    return
                received += data
                *lines, received = received.split(b"\n")
                for line in lines:
                    self._obey(json.loads(line), fds)

    def _obey(self, command: dict[str, object], fds: list[int]) -> None:
        name = str(command["execute"])
        self.commands.append(name)
        for fd in fds:
            os.write(fd, b"state")
            os.close(fd)
            fds.clear()
        answers = self._answer(name)
        if answers == ["hang up"]:
            self._server.shutdown(socket.SHUT_RDWR)
            return
        for answer in answers:
            if isinstance(answer, dict) and ("return" in answer or "error" in answer):
                answer = {**answer, "id": command["id"]}
            self._say(answer)

    def _say(self, answer: object) -> None:
        text = answer if isinstance(answer, str) else json.dumps(answer)
        self._server.sendall(text.encode() + b"\r\n")


def obey(name: str) -> list[object]:
    """Answer as QEMU does, with events in between."""
    if name == "stop":
        return [{"event": "STOP"}, {"return": {}}]
    if name == "migrate":
        migration = [{"event": "MIGRATION", "data": {"status": s}} for s in ("setup", "completed")]
        return [migration[0], {"return": {}}, migration[1]]
    return [{"return": {}}]


@contextmanager
def monitor(answer: Answer) -> Iterator[tuple[Monitor, int]]:
    """A monitor that runs while the block does; gives it and our end."""
    server, client = socket.socketpair()
    served = Monitor(server, answer)
    thread = threading.Thread(target=served.serve)
    thread.start()
    try:
        yield served, client.fileno()
    finally:
        client.close()
        thread.join()
        server.close()


def run(answer: Answer, state: Path, seconds: float = LONG_S) -> tuple[list[str], bytes]:
    """Checkpoint once; returns the commands seen with the state written."""
    with monitor(answer) as (served, qmp_fd), state.open("wb") as file:
        native.checkpoint(
            qmp_fd,
            file.fileno(),
            is_negotiated=False,
            deadline_ns=native.deadline_after(seconds),
        )
    return served.commands, state.read_bytes()


def test_commands_come_in_order_with_the_state_file(tmp_path: Path) -> None:
    commands, state = run(obey, tmp_path / "state")
    assert commands == [
        "qmp_capabilities",
        "stop",
        "migrate-set-capabilities",
        "migrate-set-parameters",
        "getfd",
        "migrate",
    ]
    assert state == b"state"


@pytest.mark.parametrize(
    "refused",
    ["qmp_capabilities", "stop", "migrate-set-capabilities", "getfd", "migrate"],
)
def test_refusal_names_the_command(tmp_path: Path, refused: str) -> None:
    def answer(name: str) -> list[object]:
        return [{"error": {"class": "C", "desc": "D"}}] if name == refused else obey(name)

    with pytest.raises(PeerError, match=f"{refused}: C: D") as caught:
        run(answer, tmp_path / "state")
    assert caught.value.code is ErrorCode.VMM_FAILED


def test_failed_migration_is_explained(tmp_path: Path) -> None:
    def answer(name: str) -> list[object]:
        if name == "migrate":
            return [{"return": {}}, {"event": "MIGRATION", "data": {"status": "failed"}}]
        if name == "query-migrate":
            return [{"return": {"status": "failed", "error-desc": "disk on fire"}}]
        return obey(name)

    with pytest.raises(PeerError, match="disk on fire"):
        run(answer, tmp_path / "state")


def test_monitor_that_hangs_up_is_a_failed_vmm(tmp_path: Path) -> None:
    with pytest.raises(PeerError) as caught:
        run(lambda name: ["hang up"] if name == "stop" else obey(name), tmp_path / "state")
    assert caught.value.code is ErrorCode.VMM_FAILED


@pytest.mark.parametrize("line", ["", "{}", "[]", "{", '{"return": {}, "id": 1.5}', "\x00"])
def test_line_that_is_not_qmp_is_a_protocol_error(tmp_path: Path, line: str) -> None:
    with pytest.raises(PeerError) as caught:
        run(lambda name: [line] if name == "stop" else obey(name), tmp_path / "state")
    assert caught.value.code is ErrorCode.VMM_PROTOCOL


def test_silent_monitor_is_bound_by_the_deadline(tmp_path: Path) -> None:
    def answer(name: str) -> list[object]:
        return [] if name == "getfd" else obey(name)

    with pytest.raises(Exception, match="getfd: the deadline passed"):
        run(answer, tmp_path / "state", seconds=2.0)


def test_cancel_fd_ends_the_wait(tmp_path: Path) -> None:
    cancel_fd = os.eventfd(1, os.EFD_CLOEXEC)
    try:
        with (
            monitor(obey) as (_, qmp_fd),
            (tmp_path / "state").open("wb") as file,
            pytest.raises(native.CallCancelledError),
        ):
            native.checkpoint(
                qmp_fd,
                file.fileno(),
                is_negotiated=False,
                deadline_ns=native.NEVER_NS,
                cancel_fd=cancel_fd,
            )
    finally:
        os.close(cancel_fd)


def qemu_argv(memory_fd: int, share: str, *more: str) -> list[str]:
    """A PC without disk or kernel: only its firmware runs."""
    memory = f"memory-backend-file,id=mem,size=64M,mem-path=/proc/self/fd/{memory_fd},share={share}"
    return [
        "qemu-system-x86_64", "-M", "pc,memory-backend=mem", "-accel", "tcg", "-m", "64",
        "-object", memory, "-nodefaults", "-no-user-config", "-display", "none",
        "-chardev", "socket,id=q0,fd=3,server=on,wait=off", "-mon", "chardev=q0,mode=control",
        "-global", "migration.store-global-state=off", *more,
    ]  # fmt: skip


def listen(stack: ExitStack, path: Path) -> tuple[socket.socket, socket.socket]:
    """A listening Unix socket with one client connected to it."""
    listening = stack.enter_context(socket.socket(socket.AF_UNIX))
    listening.bind(str(path))
    listening.listen(1)
    client = stack.enter_context(socket.socket(socket.AF_UNIX))
    client.connect(str(path))
    return listening, client


@pytest.mark.vm
@pytest.mark.skipif(QEMU is None, reason="qemu-system-x86_64 is not installed")
def test_real_qemu_is_checkpointed_then_resumed_by_a_fork(tmp_path: Path) -> None:
    assert QEMU is not None
    with ExitStack() as stack:
        output = stack.enter_context((tmp_path / "output").open("w+b"))
        memory_fd = os.memfd_create("ram", os.MFD_CLOEXEC)
        stack.callback(os.close, memory_fd)
        os.ftruncate(memory_fd, 64 << 20)
        state = stack.enter_context((tmp_path / "state").open("w+b"))
        listening, client = listen(stack, tmp_path / "qmp")
        fds = {3: listening.fileno(), 5: memory_fd}
        argv = qemu_argv(5, "on")
        template = native.spawn(native.SpawnRequest(QEMU, argv, {}, fds, output.fileno()))
        try:
            native.checkpoint(
                client.fileno(),
                state.fileno(),
                is_negotiated=False,
                deadline_ns=native.deadline_after(LONG_S),
            )
        finally:
            native.discard_process(template)
        assert os.fstat(state.fileno()).st_size > 1000

        os.lseek(state.fileno(), 0, os.SEEK_SET)
        listening, client = listen(stack, tmp_path / "qmp2")
        channel_listening, channel = listen(stack, tmp_path / "channel")
        fds = {
            3: listening.fileno(),
            4: channel_listening.fileno(),
            5: memory_fd,
            6: state.fileno(),
        }
        argv = qemu_argv(5, "off", "-incoming", "defer")
        lines = (
            b'{"execute":"qmp_capabilities"}\n'
            b'{"execute":"migrate-set-capabilities","arguments":{"capabilities":['
            b'{"capability":"x-ignore-shared","state":true},{"capability":"events","state":true}]}}\n'
            b'{"execute":"migrate-incoming","arguments":{"uri":"fd:6"}}\n'
        )
        spawn = native.SpawnRequest(QEMU, argv, {}, fds, output.fileno())
        request = native.ForkRequest(
            spawn, client.fileno(), lines, 3, channel.fileno(), b'{"type":"PREPARE"}'
        )
        with pytest.raises(native.ForkError) as caught:  # a firmware does not speak our protocol
            native.fork(request, deadline_ns=native.deadline_after(10.0))
        assert caught.value.stage is native.ForkStage.GUEST, caught.value
