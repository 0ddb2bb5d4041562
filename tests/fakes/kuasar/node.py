"""A node with a sandboxer of either form, and the container runtime that starts its Pods."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from agentd.kuasar.admin_json import AdminJson
from agentd.kuasar.admin_socket import AdminSocket
from agentd.kuasar.client import Form, KuasarClient
from agentd.kuasar.cri import Cri
from agentd.kuasar.ssi import Ssi

from .cri import FakeCri
from .faults import Faults
from .grpc_form import GrpcForm
from .json_form import JsonForm
from .reduced_admin import ReducedAdmin
from .sandboxer import Config, Sandboxer


class KuasarNode:
    """Its sockets are below a directory; what the sandboxer keeps outlives a restart.

    Use as `async with`. form: what the sandboxer speaks, for the next start.
    """

    def __init__(self, directory: Path, form: Form, config: Config | None = None) -> None:
        self.form = form
        self.admin_path = directory / "admin.sock"
        self.grpc_path = directory / "service.sock"
        self.cri_path = directory / "cri.sock"
        self.sandboxer = Sandboxer(config)
        self.json = JsonForm(self.sandboxer)
        self.grpc = GrpcForm(self.sandboxer)
        self.admin = ReducedAdmin(self.sandboxer)
        self.cri = FakeCri(self.sandboxer)
        self._runtime = AsyncExitStack()
        self._services = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._runtime.enter_async_context(self.cri.serving(self.cri_path))
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()
        await self._runtime.aclose()

    @property
    def faults(self) -> Faults:
        """Of the socket that takes snapshots; in the gRPC form `admin` has its own."""
        return self.grpc.faults if self.form is Form.GRPC else self.json.faults

    @property
    def calls(self) -> Counter[str]:
        """What was asked of every socket of the sandboxer."""
        return self.json.calls + self.grpc.calls + self.admin.calls

    async def start(self) -> None:
        """The sandboxer serves; `sandboxer.is_recovered` says what it knows."""
        if self.form is Form.JSON:
            await self._services.enter_async_context(self.json.serving(self.admin_path))
            return
        await self._services.enter_async_context(self.grpc.serving(self.grpc_path))
        await self._services.enter_async_context(self.admin.serving(self.admin_path))

    async def stop(self) -> None:
        """It ends: its calls are broken off, its sockets stay as files that nobody serves. (R)"""
        await self._services.aclose()

    async def restart(self, form: Form | None = None) -> None:
        """It is replaced, perhaps by one of another form, which has its sandboxes to find again."""
        await self.stop()
        self.form = form or self.form
        self.sandboxer.is_recovered = False
        await self.start()

    def client(self, *, create_s: float = 10.0, call_s: float = 5.0) -> KuasarClient:
        """One that speaks the present form."""
        admin = AdminSocket(self.admin_path, deadline_s=call_s)
        if self.form is Form.GRPC:
            return Ssi(self.grpc_path, admin, create_s=create_s, call_s=call_s)
        return AdminJson(admin, Cri(self.cri_path, call_s=call_s), create_s=create_s)
