"""PID 1 of a guest that breaks the contract in the way its PREPARE asks for."""

import os
import re
import struct
import time

from agentd.guest import boot
from agentd.guest.port import open_port

MARKER = bytes.fromhex("f5534e4150f75354415254fb4d5831ff")
HELLO_ACK = 2
CONSOLE_LINE = b"x" * 127 + b"\n"


def read_host(port):
    """What the host says, up to its wish; while nobody is connected reads end at once."""
    said = b""
    while not (wish := re.search(rb'"ROGUE":\s*"(\w+)"', said)):
        try:
            data = os.read(port, 65536)
        except BlockingIOError:
            data = b""
        said += data
        if not data:
            time.sleep(0.01)
    epoch = said[said.rindex(MARKER) + 28 :][:16]
    return wish[1].decode(), epoch


def frame(kind, payload, length=None):
    return (
        struct.pack(">2sBBII", b"SF", kind, 0, 0, len(payload) if length is None else length)
        + payload
    )


def be_silent(port, epoch):
    while True:
        time.sleep(60)


def be_noisy(port, epoch):
    write(port, b"\x00\xff" * 8192)
    be_silent(port, epoch)


def flood_channel(port, epoch):
    while True:
        write(port, b"y" * 32768)


def answer_a_stranger(port, epoch):
    write(port, MARKER + frame(HELLO_ACK, b"?" * 16))
    be_silent(port, epoch)


def break_frames(port, epoch):
    write(port, MARKER + frame(HELLO_ACK, epoch) + b"this is no frame, not at all")
    be_silent(port, epoch)


def announce_too_much(port, epoch):
    write(port, MARKER + frame(HELLO_ACK, epoch) + frame(4, b"", length=0xFFFFFFFF))
    be_silent(port, epoch)


def flood_console(port, epoch):
    while True:
        os.write(1, CONSOLE_LINE * 32)


def panic(port, epoch):
    os._exit(1)


def write(port, data):
    while data:
        try:
            data = data[os.write(port, data) :]
        except BlockingIOError:
            time.sleep(0.001)


def main():
    boot.bring_up()
    port = open_port(30)
    for _ in range(1024):
        os.write(1, CONSOLE_LINE)
    os.write(1, b"NUL\0and \xff go through\n")
    os.write(1, b"rogue waits\n")
    wish, epoch = read_host(port)
    globals()[wish](port, epoch)
