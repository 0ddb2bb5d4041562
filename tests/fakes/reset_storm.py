"""A program as agentd is: on uvloop, it asks an API server that resets every connection.

    python -m tests.fakes.reset_storm ROUNDS

Meanwhile it listens here and there, as for Pods. Exit status 0 when nothing but its connections to
the API server failed.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import uvloop

from controlplane.errors import ControlPlaneError
from controlplane.kube.client import open_kube
from controlplane.kube.connect import KubeSettings
from controlplane.kube.resource import NODES

_AT_ONCE = 4
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: close sends RST
_KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: x
contexts: [{{name: x, context: {{cluster: x, user: x}}}}]
clusters: [{{name: x, cluster: {{server: "https://127.0.0.1:{port}"}}}}]
users: [{{name: x, user: {{token: x}}}}]
"""


def serve_resets() -> None:
    """The API server, a process of its own: its descriptors are not ours. Says its port."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            connection.close()


async def storm(kubeconfig: Path, rounds: int) -> None:
    """Ask and listen at the same time, again and again. Raises: what should not fail."""
    async with await open_kube(KubeSettings(kubeconfig=str(kubeconfig)), environ={}) as kube:

        async def ask() -> None:
            try:
                await kube.get(NODES, "node-a")
            except ControlPlaneError:
                return
            raise AssertionError("a connection that is reset gave an answer")

        for _ in range(rounds):
            await asyncio.gather(_listen(), *(ask() for _ in range(_AT_ONCE)), _listen())


async def _listen() -> None:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await asyncio.sleep(0.002)
    _reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    server.close()


def main() -> None:
    """Run the storm against a server of one's own."""
    argv = [sys.executable, "-c", "from tests.fakes.reset_storm import *; serve_resets()"]
    with (
        tempfile.TemporaryDirectory() as directory,
        subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server,
    ):
        try:
            assert server.stdout is not None
            config = Path(directory, "config")
            config.write_text(_KUBECONFIG.format(port=int(server.stdout.readline())))
            uvloop.run(storm(config, int(sys.argv[1])))
        finally:
            server.kill()


if __name__ == "__main__":
    main()
