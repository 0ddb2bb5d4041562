"""Run the agentd of one virtual node as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil

from agentd.client.calls import Call, health
from agentd.client.transport import Transport
from agentd.engine.home import read_installation_id
from agentd.errors import SnapStartError
from agentd.vmm.qemu_argv import MARKER_PREFIX
from agentd.warmfork.channel import GuestChannel
from agentd.warmfork.services import fetch_status
from agentd.wire.guest import GuestStatus
from bench.cluster.leaks import processes_of
from bench.cluster.network import NodePlace
from tests.kube.process import Server, Spawner

T = TypeVar("T")
READY_S = 60.0
_MACHINE_END_S = 10.0
_ANSWER_S = 20.0


@dataclass(frozen=True)
class NodeOptions:
    """What nodes share, and what each must have for itself.

    images: reference to key, as in agentd's settings. uid_base: of this node's machines.
    """

    image_cache_dir: Path
    images: Mapping[str, str]
    kubeconfig: Path
    uid_base: int


def write_settings(file: Path, place: NodePlace, options: NodeOptions, directory: Path) -> None:
    """agentd's settings of one node, as an operator would write them."""
    images = "".join(f'"{name}" = "{key}"\n' for name, key in options.images.items())
    file.write_text(
        "[paths]\n"
        f'data_dir = "{directory / "data"}"\n'
        f'run_dir = "{directory / "run"}"\n'
        f'image_cache_dir = "{options.image_cache_dir}"\n'
        "[monitor]\n"
        f"uid_base = {options.uid_base}\n"
        "[node]\n"
        "enabled = true\n"
        "virtual = true\n"
        f'name = "{place.name}"\n'
        f'kubeconfig = "{options.kubeconfig}"\n'
        f'pod_cidr = "{place.pods}"\n'
        "[node.images]\n"
        f"{images}"
    )


class DemoNode:
    """One agentd; what it has started outlives it until `close`."""

    def __init__(
        self, place: NodePlace, directory: Path, options: NodeOptions, spawner: Spawner
    ) -> None:
        """Args: directory: exists, private to this node, with a short path for its sockets."""
        self.place = place
        self.name = place.name
        self.directory = directory
        settings = directory / "agentd.toml"
        write_settings(settings, place, options, directory)
        agentd = [sys.executable, "-m", "agentd.cli.agentd", "serve", "--config", str(settings)]
        self.server = Server(place.name, place.inside(agentd), directory=directory, spawner=spawner)
        # Made here, so that it is known what to look for even if agentd never comes up.
        (directory / "data").mkdir(mode=0o700)
        self.mark = f"guest={MARKER_PREFIX}/{read_installation_id(directory / 'data')}/"

    def __repr__(self) -> str:
        return f"<DemoNode {self.name} {'up' if self.server.is_running else 'down'}>"

    @property
    def socket(self) -> Path:
        """agentd's local API."""
        return self.directory / "run" / "agentd.sock"

    def start(self) -> None:
        """Start agentd, wait until it answers. Raises: ServerDiedError."""
        self.server.start()
        self.server.wait_ready(self._is_healthy, deadline_s=READY_S)

    def kill(self) -> None:
        """SIGKILL to agentd, as a crash; its machines run on."""
        self.server.kill()

    def stop(self) -> None:
        """Stop agentd as its service manager would; its machines run on."""
        self.server.stop(deadline_s=60.0)

    def machines(self) -> dict[str, int]:
        """The machines that run, by id, with their process."""
        found = {}
        for process in processes_of(self.mark):
            with contextlib.suppress(psutil.Error):  # one that ends meanwhile has no words either
                for word in process.cmdline():
                    if word.startswith(self.mark):
                        found[word.removeprefix(self.mark)] = process.pid
        return found

    def ask_machine(self, machine: str) -> GuestStatus:
        """What a guest says by its own channel, while no agentd holds that.

        Raises: SnapStartError when it does not answer.
        """
        return asyncio.run(_ask(self.directory / "run" / "vms" / machine / "channel.sock"))

    def close(self) -> None:
        """End agentd and every machine of the node."""
        self.server.stop(deadline_s=60.0)
        left = processes_of(self.mark)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=_MACHINE_END_S)

    def _is_healthy(self) -> bool:
        try:
            self.send(health())
        except SnapStartError:
            return False
        return True

    def send(self, call: Call[T]) -> T:
        """One request to the local API. Raises: SnapStartError."""
        with contextlib.closing(Transport(self.socket)) as transport:
            return transport.send(call)


async def _ask(path: Path) -> GuestStatus:
    channel = await GuestChannel.connect(path, deadline_s=_ANSWER_S)
    try:
        return await fetch_status(channel, deadline_s=_ANSWER_S)
    finally:
        await channel.close()
