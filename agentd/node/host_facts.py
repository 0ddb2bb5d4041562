"""Find out what a virtual Node says of this machine."""

from __future__ import annotations

import os
import platform
import socket
from pathlib import Path
from typing import Final

from agentd import __version__
from agentd.engine.engine import Engine
from agentd.engine.home import read_boot_id
from agentd.node.node_object import NodeFacts
from agentd.settings import Settings

# Go's names, which kubernetes.io/arch holds, for those of uname(2).
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_ELSEWHERE: Final = ("192.0.2.1", 9)  # RFC 5737: nothing is sent to it


def find_facts(settings: Settings, engine: Engine, name: str) -> NodeFacts:
    """Everything, as of now."""
    limits = engine.machines.limits
    machine = os.uname()
    return NodeFacts(
        name=name,
        address=settings.node.address or find_address(),
        cpus=os.cpu_count() or 1,
        memory_bytes=limits.memory_bytes,
        pods=limits.max_sessions,
        architecture=_ARCHITECTURES.get(machine.machine, machine.machine),
        kernel=machine.release,
        os_image=_os_image(),
        machine_id=_read("/etc/machine-id"),
        boot_id=read_boot_id(),
        engine="qemu",
        version=__version__,
        labels=dict(settings.node.labels),
    )


def find_address() -> str:
    """The address that this machine would send from; the loopback's if it has no route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect(_ELSEWHERE)
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def _os_image() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
