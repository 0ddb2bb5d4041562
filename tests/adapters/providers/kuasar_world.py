"""A driver with a stand-in sandboxer of either form behind real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from agentd.errors import TransientError
from agentd.kuasar.access import SandboxerAccess
from agentd.kuasar.client import Form, KuasarClient
from agentd.providers.driver import CreateRequest, SnapshotOwner
from agentd.providers.kuasar import KuasarDriver
from agentd.providers.ledger import Ledger
from agentd.settings import Kuasar
from controlplane.api.types import SnapshotMode
from tests.fakes.kuasar.faults import Fault, Faults
from tests.fakes.kuasar.node import KuasarNode
from tests.fakes.kuasar.sandboxer import Config, Sandbox, Template

KEY = "python-0123456789-fork-g1-r1"
HASH = "sha256:" + "5" * 64
OWNER = SnapshotOwner("cluster", "team", "python", "snap-uid")
# More than a machine stands still for, so that nobody but who is silent is late.
CREATE_S = 4.0


def settings_of(node: KuasarNode) -> Kuasar:
    """What an operator would write down."""
    return Kuasar(
        admin_socket=node.admin_path,
        grpc_socket=node.grpc_path,
        listen_socket=node.admin_path.with_name("listen.sock"),
        cri_socket=node.cri_path,
    )


class PatientAccess(SandboxerAccess):
    """The real one, but for what its clients wait: seconds for a snapshot, else."""

    create_s = 40.0
    call_s = 40.0

    def __init__(self, node: KuasarNode) -> None:
        super().__init__(settings_of(node), probe_s=self.call_s, settle_s=0.0)
        self._node = node

    def _build(self, form: Form) -> KuasarClient:
        assert form is self._node.form
        return self._node.client(create_s=self.create_s, call_s=self.call_s)


class HastyAccess(PatientAccess):
    """For a sandboxer that does not answer."""

    create_s = CREATE_S
    call_s = CREATE_S


MakeAccess = Callable[[KuasarNode], SandboxerAccess]


class KuasarWorld:
    """One node, one agent; `successor` is the agent after a restart. now: of the drivers."""

    def __init__(
        self,
        directory: Path,
        form: Form,
        config: Config | None = None,
        make_access: MakeAccess = PatientAccess,
    ) -> None:
        self.node = KuasarNode(directory, form, config)
        self._make_access = make_access
        self.sandboxer = self.node.sandboxer
        self.ledger = Ledger(directory / "ledger")
        self.ahead = timedelta()
        self.drivers: list[KuasarDriver] = []
        self.access = self._make_access(self.node)
        self.driver = self.agent(self.ledger, self.access)
        self._pods = 0

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def agent(self, ledger: Ledger, access: SandboxerAccess | None = None) -> KuasarDriver:
        """Another one; closed at the end."""
        made = KuasarDriver(
            access or self._make_access(self.node),
            ledger,
            name="snapstart.kuasar.io",
            create_s=20.0,  # twice as long is less than what tests jump ahead by
            after_error_s=0.01,
            now=self.now,
        )
        self.drivers.append(made)
        return made

    def successor(self) -> KuasarDriver:
        """An agent that knows what is on disk, nothing else."""
        self.access = self._make_access(self.node)
        self.driver = self.agent(Ledger(self.ledger.path), self.access)
        return self.driver

    def request(self, key: str = KEY, **changes: Any) -> CreateRequest:
        """For a Pod of its own, which runs."""
        self._pods += 1
        uid, name = f"uid-{self._pods}", f"build-{self._pods}"
        self.sandboxer.run(uid, namespace="team", name=name)
        values = {
            "pod_uid": uid,
            "pod_namespace": "team",
            "pod_name": name,
            "key": key,
            "snapshot_hash": HASH,
            "mode": SnapshotMode.FORK,
            "owner": OWNER,
        }
        return CreateRequest(**{**values, **changes})

    def of_pod(self, request: CreateRequest) -> Sandbox:
        """The sandbox of a request's Pod."""
        return self.sandboxer.of_pod(request.pod_uid)

    def templates(self, key: str = KEY) -> list[Template]:
        """What the sandboxer has itself."""
        return [one for one in self.sandboxer.templates.values() if one.key == key]

    async def add_template(self, key: str = KEY) -> Template:
        """Somebody else makes one."""
        return await self.sandboxer.create_fork(self.of_pod(self.request(key)), key)

    @property
    def faults(self) -> Faults:
        """Of the socket on which snapshots are made."""
        return (self.node.json if self.node.form is Form.JSON else self.node.grpc).faults

    def fail(self, *faults: Fault) -> None:
        """Of the calls to come; the first of a create looks, the second makes."""
        self.faults.calls.extend(faults)

    async def settle(self) -> None:
        """Until the agent takes it that the sandboxer knows its sandboxes."""
        while True:
            with suppress(TransientError):
                await self.access.require_settled()
                return

    def pause_at_snapshots(self) -> tuple[asyncio.Event, asyncio.Event]:
        """Returns: set once a guest is paused; to be set for it to go on."""
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def pausing(_: Sandbox) -> None:
            begun.set()
            await go_on.wait()

        self.sandboxer.pausing = pausing
        return begun, go_on

    def is_any_paused(self) -> bool:
        """A guest waits for somebody to resume it."""
        return any(one.is_paused for one in self.sandboxer.sandboxes.values())


@asynccontextmanager
async def kuasar_world(
    directory: Path,
    form: Form,
    config: Config | None = None,
    make_access: MakeAccess = PatientAccess,
) -> AsyncIterator[KuasarWorld]:
    """One whose sandboxer serves, is known and settled; at the end no create is under way."""
    world = KuasarWorld(directory, form, config, make_access)
    async with world.node:
        await world.settle()
        yield world
        left = [await driver.close(wait_s=0.0) for driver in world.drivers]
        assert not any(left), left
        assert not under_way()


def under_way() -> list[str]:
    """The names of a driver's tasks that run."""
    return [
        task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("kuasar-")
    ]


async def until(check: Callable[[], bool]) -> None:
    """Look until it is so; the test's own timeout is the limit."""
    while not check():  # noqa: ASYNC110 - what is waited for sets no event
        await asyncio.sleep(0.005)
