"""Whatever is said on the control socket is answered in words, or hung up on."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import pytest

from .pager_process import PagerProcess
from .unharmed import check_newcomer, wait_until_read

GARBAGE = {
    "nothing": b"\n",
    "no JSON": b"hello\n",
    "no object": b"[]\n",
    "no operation": b"{}\n",
    "an operation that is none": b'{"op":7}\n',
    "an unknown operation": b'{"op":"shutdown"}\n',
    "an operation twice": b'{"op":"hello","op":"retire"}\n',
    "a name that climbs": b'{"op":"forget","vm":"../../etc/passwd"}\n',
    "no name": b'{"op":"wait","timeout_s":1}\n',
    "endless patience": b'{"op":"wait","vm":"x","timeout_s":1e400}\n',
    "negative patience": b'{"op":"wait","vm":"x","timeout_s":-1}\n',
    "half an order": b'{"op":"listen","vm":"x"}\n',
    "bytes of nothing": b"\0\0\0\n",
    "no UTF-8": b'{"op":"\xff\xfe"}\n',
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_is_answered_with_what_is_wrong(pager: PagerProcess, garbage: str) -> None:
    with pager.control() as control:
        control.socket.sendall(GARBAGE[garbage])
        answer = control.answer()
        assert answer["error"] == "invalid"
        assert answer["message"]
        assert control.ask("hello")["ok"]


ORDERS: dict[str, dict[str, Any]] = {
    "a long name": {"vm": "x" * 128},
    "a hidden name": {"vm": ".hidden"},
    "an unknown protocol": {"protocol": "qemu"},
    "a short digest": {"digest": "5a"},
    "a digest of other letters": {"digest": "zz" * 32},
    "a long socket path": {"socket": "/" + "x" * 200},
    "a relative socket path": {"socket": "evil.sock"},
    "a relative image path": {"image": "image"},
    "no image": {"image": ""},
    "a negative user": {"uid": -1},
    "a path with a NUL": {"socket": "/tmp/a\0b"},
}


@pytest.mark.parametrize("order", ORDERS)
def test_an_order_that_cannot_be_is_refused(pager: PagerProcess, order: str) -> None:
    good = {
        "vm": "evil",
        "socket": str(pager.directory / "evil.sock"),
        "protocol": "firecracker",
        "image": str(pager.image_path),
        "digest": "5a" * 32,
    }
    answer = pager.ask("listen", **{**good, **ORDERS[order]})
    assert answer["error"] == "invalid", answer
    assert not (pager.directory / "evil.sock").exists()


@pytest.mark.parametrize("kind", ["/", "/dev/zero", "/nonexistent", "fifo"])
def test_an_image_that_is_no_file_is_refused_without_waiting(
    pager: PagerProcess, kind: str
) -> None:
    path = pager.directory / "fifo"
    os.mkfifo(path)
    image = str(path) if kind == "fifo" else kind
    socket_path = str(pager.directory / "evil.sock")
    order = {"vm": "evil", "socket": socket_path, "protocol": "firecracker", "digest": "5a" * 32}
    answer = pager.ask("listen", image=image, **order)
    assert answer["error"] == "image", answer


@pytest.mark.parametrize("length", [65_536, 65_537, 1_000_000])
def test_a_line_that_is_too_long_is_hung_up_on(pager: PagerProcess, length: int) -> None:
    with pager.control() as control:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            control.socket.sendall(b" " * length)
        with pytest.raises((EOFError, ConnectionResetError)):
            control.answer()


def test_a_line_that_just_fits_is_answered(pager: PagerProcess) -> None:
    with pager.control() as control:
        line = b'{"op":"hello"}'
        control.socket.sendall(line + b" " * (65_535 - len(line)) + b"\n")
        assert control.answer()["ok"]


def test_requests_without_end_that_nobody_reads_answers_of_hold_up_nobody(
    pager: PagerProcess,
) -> None:
    with pager.control() as control:
        control.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                control.socket.send(b'{"op":"stats"}\n' * 1000)
        check_newcomer(pager)


def test_requests_in_a_row_are_answered_in_order(pager: PagerProcess) -> None:
    with pager.control() as control:
        control.socket.sendall(b'{"op":"hello"}\nx\n' * 500)
        for _ in range(500):
            assert control.answer()["ok"]
            assert control.answer()["error"] == "invalid"


def test_a_request_in_pieces_is_answered(pager: PagerProcess) -> None:
    with pager.control() as control:
        for byte in b'{"op":"hello"}\n':
            control.socket.sendall(bytes([byte]))
            wait_until_read(control.socket)
        assert control.answer()["ok"]


def test_whoever_hangs_up_while_waiting_is_forgotten(pager: PagerProcess) -> None:
    pager.listen("evil")
    waiting = [pager.control() for _ in range(50)]
    for control in waiting:
        control.socket.sendall(b'{"op":"wait","vm":"evil","timeout_s":3600}\n')
    for control in waiting:
        control.__exit__(None, None, None)
    assert pager.ask("forget", vm="evil") == {"ok": True}


def test_whoever_waits_for_a_machine_that_is_forgotten_is_told(pager: PagerProcess) -> None:
    pager.listen("evil")
    with pager.control() as control:
        control.socket.sendall(b'{"op":"wait","vm":"evil","timeout_s":3600}\n')
        wait_until_read(control.socket)
        assert pager.ask("forget", vm="evil") == {"ok": True}
        assert control.answer()["error"] == "unknown"
