"""Look at a node from outside: which machines, directories, groups are there?"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from agentd.client import Sandbox
from agentd.vmm.cgroup import CgroupTree
from agentd.wire import api
from bench.node import Node

# A successor looks a second time for a machine that was being born when its predecessor died.
SETTLE_S = 20.0


@dataclass(frozen=True)
class Survey:
    """What a node owns on this host, by machine id."""

    sessions: frozenset[str]
    processes: frozenset[str]
    directories: frozenset[str]
    groups: frozenset[str]

    @property
    def is_settled(self) -> bool:
        """Every machine belongs to a session, nothing else is left."""
        return self.processes == self.sessions == self.directories and self.groups <= self.sessions


def list_live(node: Node) -> list[api.Session]:
    """The sessions that have not ended."""
    found = Sandbox.list(socket=node.socket)
    return [one for one in found if one.state is not api.SessionState.ENDED]


def installation_of(node: Node) -> str:
    """What marks the machines of this node."""
    return (node.root / "data" / "installation-id").read_text().strip()


def machine_ids(node: Node) -> frozenset[str]:
    """The machines of this node's installation that run on the host."""
    prefix = f"guest=snapstart/{installation_of(node)}/"
    found = set()
    for process in psutil.process_iter():
        try:
            argv = process.cmdline()
        except psutil.Error:
            continue
        found |= {word.removeprefix(prefix) for word in argv if word.startswith(prefix)}
    return frozenset(found)


def survey(node: Node) -> Survey:
    """Look once."""
    vms = Path(node.root / "run" / "vms")
    directories = {path.name for path in vms.iterdir()} if vms.exists() else set()
    sessions = frozenset(one.id for one in list_live(node))
    groups = frozenset(CgroupTree.find(installation_of(node)).list_ids())
    return Survey(sessions, machine_ids(node), frozenset(directories), groups)


def settle(node: Node) -> Survey:
    """Look until nothing is left that belongs to no session, or time is up."""
    give_up = time.monotonic() + SETTLE_S
    while not (found := survey(node)).is_settled and time.monotonic() < give_up:
        time.sleep(0.2)
    return found
