"""A stand-in for a guest's inject socket: a process of its own that speaks the real protocol.

    python -m bench.standin_guest DIRECTORY COUNT

For each of COUNT rounds it waits a random 3 to 7 ms, listens on DIRECTORY/N.sock, answers one
injection, prints the CLOCK_MONOTONIC time in ns at which listen(2) had returned.
"""

from __future__ import annotations

import json
import random
import socket
import sys
import time
from pathlib import Path

CAPABILITIES: dict[str, object] = {
    "type": "CAPABILITIES",
    "protocol_version": "1",
    "supported_features": ["prepare", "commit", "cancel"],
}


def send(connection: socket.socket, message: dict[str, object]) -> None:
    """One frame."""
    body = json.dumps(message).encode()
    connection.sendall(len(body).to_bytes(4) + body)


def receive(stream: socket.SocketIO) -> str:
    """The type of the next frame."""
    size = int.from_bytes(stream.read(4) or b"")
    return str(json.loads(stream.read(size) or b"{}").get("type", ""))


def serve_one(path: Path) -> int:
    """Listen, answer one injection; returns when it began to listen."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(1)
        listening_ns = time.monotonic_ns()
        connection, _ = server.accept()
        with connection, socket.SocketIO(connection, "r") as stream:
            send(connection, CAPABILITIES)
            receive(stream)
            send(connection, {"type": "READY"})
            receive(stream)
            send(connection, {"type": "STARTED"})
    return listening_ns


def main() -> None:
    """Serve the rounds; one line per round."""
    directory, count = Path(sys.argv[1]), int(sys.argv[2])
    for number in range(count):
        sys.stdin.readline()
        time.sleep(random.uniform(0.003, 0.007))
        print(serve_one(directory / f"{number}.sock"), flush=True)


if __name__ == "__main__":
    main()
