"""The guest's channel over connections, as a vsock listener gives them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentd.guest import boot
from agentd.guest.loop import Loop
from agentd.guest.streams import Hub, MessageHandler, Stream
from agentd.guest.vsock_port import VsockPort, has_vsock
from agentd.guest.wire import JsonObject
from tests.adapters.guest.fake_host import FakeHost

PATIENCE_S = 10.0


class Echo(MessageHandler):
    """Sends back what it gets, or as much as it is asked for."""

    def on_message(self, message: JsonObject) -> None:
        size = message.get("size")
        if isinstance(size, int):
            self.stream.write(b"x" * size)
            self.stream.finish()
        else:
            self.stream.send(message)


class Guest:
    """A port in a thread of its own; hosts connect by `host`."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "vsock"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        listener.listen()
        listener.setblocking(False)
        self.loop = Loop()
        self.gone: list[Stream] = []
        self.port = VsockPort(self.loop, listener, Hub({"echo": self._echo}))
        self.loop.on_batch_end = self.port.flush
        self._is_over = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _echo(self, stream: Stream, _params: JsonObject) -> Echo:
        gone = self.gone

        class Handler(Echo):
            def on_gone(self) -> None:
                gone.append(self.stream)

        return Handler(stream)

    def _run(self) -> None:
        while not self._is_over:
            self.loop.step(0.05)

    def host(self) -> FakeHost:
        """Somebody who connected; nothing was said so far."""
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self.path))
        return FakeHost(sock)

    def close(self) -> None:
        self._is_over = True
        self._thread.join(PATIENCE_S)
        self.port.close()
        self.loop.close()


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    made = Guest(tmp_path)
    yield made
    made.close()


def speak(host: FakeHost) -> None:
    """The channel works in both directions."""
    stream = host.open("echo")
    host.send(stream, {"type": "hello"})
    assert host.message(stream) == {"type": "hello"}


def test_a_host_that_connects_is_spoken_to(guest: Guest) -> None:
    host = guest.host()
    host.hello()
    speak(host)
    host.close()


def test_a_host_that_comes_back_begins_anew(guest: Guest) -> None:
    for _ in range(3):
        host = guest.host()
        host.hello()
        speak(host)
        host.close()
    assert len(guest.gone) == 2, "each ended with the next one's greeting"


def test_the_last_host_to_connect_is_the_host(guest: Guest) -> None:
    first = guest.host()
    first.hello()
    speak(first)
    second = guest.host()
    second.hello()
    first.sock.settimeout(PATIENCE_S)
    assert first.sock.recv(1) == b"", "the one before was hung up on"
    speak(second)
    first.close()
    second.close()


def test_a_connection_that_was_reset_is_no_end(guest: Guest) -> None:
    """As by a restore."""
    host = guest.host()
    host.hello()
    stream = host.open("echo")
    host.send(stream, {"size": 1 << 20})  # unread data makes close(2) a reset
    host.close()
    again = guest.host()
    again.hello()
    speak(again)
    again.close()


def test_more_than_a_socket_takes_waits_until_it_does(guest: Guest) -> None:
    host = guest.host()
    host.hello()
    stream = host.open("echo")
    host.send(stream, {"size": 4 << 20})
    assert host.raw(stream, PATIENCE_S) == b"x" * (4 << 20)
    speak(host)
    host.close()


def test_what_was_half_sent_to_one_host_does_not_disturb_the_next(guest: Guest) -> None:
    host = guest.host()
    host.hello()
    host.send(host.open("echo"), {"size": 4 << 20})
    host.sock.recv(1000)  # it has begun to send, and is stuck
    again = guest.host()
    again.hello()
    speak(again)
    host.close()
    again.close()


# -- which channel there is, how a machine ends ---------------------------------------------------


@pytest.fixture
def device(tmp_path: Path) -> Callable[[str, str], None]:
    """Adds a virtio device to a sysfs of ours."""

    def add(name: str, ident: str) -> None:
        folder = tmp_path / "bus/virtio/devices" / name
        folder.mkdir(parents=True)
        (folder / "device").write_text(f"{ident}\n")

    return add


def test_a_machine_with_a_vsock_device_is_recognised(
    tmp_path: Path, device: Callable[[str, str], None]
) -> None:
    assert not has_vsock(sys_root=str(tmp_path))
    device("virtio0", "0x0003")  # a console, as under QEMU
    assert not has_vsock(sys_root=str(tmp_path))
    device("virtio1", "0x0013")
    assert has_vsock(sys_root=str(tmp_path))


@pytest.mark.parametrize(
    ("cmdline", "is_reset"),
    [
        ("console=ttyS0 quiet panic=-1 reboot=k pci=off\n", True),
        ("console=ttyS0 quiet panic=-1 rdinit=/init\n", False),
        ("reboot=kbd xreboot=k\n", False),
        ("", False),
    ],
)
def test_a_machine_is_reset_where_its_monitor_ends_with_that_alone(
    tmp_path: Path, cmdline: str, is_reset: bool
) -> None:
    path = tmp_path / "cmdline"
    path.write_text(cmdline)
    assert boot.ends_by_reset(str(path)) is is_reset
    assert boot.ends_by_reset(str(tmp_path / "none")) is False


@pytest.mark.parametrize("is_reset", [True, False])
def test_the_machine_is_ended_in_the_way_that_its_monitor_knows(
    monkeypatch: pytest.MonkeyPatch, is_reset: bool
) -> None:
    called: list[str] = []
    monkeypatch.setattr(boot, "ends_by_reset", lambda: is_reset)
    monkeypatch.setattr(boot.sysapi, "restart", lambda: called.append("restart"))
    monkeypatch.setattr(boot.sysapi, "power_off", lambda: called.append("power_off"))
    boot.end_machine()
    assert called == (["restart", "power_off"] if is_reset else ["power_off"])
