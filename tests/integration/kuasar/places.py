"""A Kuasar sandboxer that serves, real or stand-in, over templates that a test put there.

The real one is the program that KUASAR_BIN names, on sockets and directories of its own, without a
VM. Nothing of it is assumed but its flags, its settings and the files that it keeps.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agentd.kuasar.client import Form
from tests.fakes.kuasar.node import KuasarNode
from tests.fakes.kuasar.sandboxer import Config, Sandbox, Template

from .files import Kept, forget_cgroups, keep_recovering, lay_out, sandbox_id, settings_text

START_S = 60.0


@dataclass(frozen=True)
class Program:
    """What KUASAR_BIN names. settings: of KUASAR_CONFIG, `@STORE@` for its store; may be empty."""

    path: Path
    form: Form
    settings: str = ""


class Place(Protocol):
    """Where a sandboxer serves. The gRPC socket of the JSON form is never there."""

    form: Form
    admin: Path
    grpc: Path

    def serving(self, *, is_recovering: bool = False) -> AbstractAsyncContextManager[None]:
        """Started until the end; may be entered again: it is restarted.

        is_recovering: it has not found its sandboxes again yet, and does not until the end.
        """


class StandIn:
    """Serves what `tests.fakes.kuasar` says of a sandboxer."""

    def __init__(
        self, directory: Path, form: Form, kept: Iterable[Kept], *, has_pool: bool
    ) -> None:
        self.form = form
        self._node = KuasarNode(directory, form, Config(has_pool=has_pool))
        self.admin, self.grpc = self._node.admin_path, self._node.grpc_path
        for one in kept:
            self._keep(one)

    def _keep(self, kept: Kept) -> None:
        sandboxer = self._node.sandboxer
        template = Template(kept.template_id, kept.kind, kept.key, kept.created_at_s, kept.uses)
        sandboxer.templates[kept.template_id] = template
        for number in range(kept.uses):
            name = sandbox_id(kept, number)
            sandboxer.sandboxes[name] = Sandbox(
                name, "", "stopped", template_id=kept.template_id, template_type=kept.kind
            )

    @asynccontextmanager
    async def serving(self, *, is_recovering: bool = False) -> AsyncIterator[None]:
        """See Place."""
        self._node.sandboxer.is_recovered = not is_recovering
        await self._node.start()
        try:
            yield
        finally:
            await self._node.stop()


class Real:
    """Runs a sandboxer, with files as if it had made those templates itself.

    containerd: the socket for that.
    """

    def __init__(
        self, directory: Path, program: Program, kept: Iterable[Kept], *, has_pool: bool
    ) -> None:
        self.form = program.form
        self.admin = directory / "admin.sock"
        self.grpc = directory / "service.sock"
        self._program = program
        self._directory = directory
        self.containerd = directory / "containerd.sock"
        self._log = directory / "log"
        lay_out(directory, kept)
        store = directory / "store"
        text = settings_text(store, has_pool=has_pool)
        if has_pool and program.settings:
            text = program.settings.replace("@STORE@", str(store))
        (directory / "config.toml").write_text(text)

    @asynccontextmanager
    async def serving(self, *, is_recovering: bool = False) -> AsyncIterator[None]:
        """See Place. Ends it by SIGKILL, as nothing is there that it could put in order."""
        if is_recovering:
            keep_recovering(self._directory)
        with self._log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *self._arguments(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "RUST_BACKTRACE": "0"},
            )
        try:
            await self._until_it_listens(process, is_recovering)
            yield
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            forget_cgroups(self._directory / "run")

    def _arguments(self) -> list[str]:
        directory = self._directory
        flags = {
            "--config": directory / "config.toml",
            "--dir": directory / "run",
            "--listen": self.containerd,
            "--admin-listen": self.admin,
        }
        if self.form is Form.GRPC:
            flags["--grpc-listen"] = self.grpc
        return [str(self._program.path), *(str(word) for pair in flags.items() for word in pair)]

    async def _until_it_listens(
        self, process: asyncio.subprocess.Process, is_recovering: bool
    ) -> None:
        """The socket for containerd comes last, after recovery."""
        wanted = [self.admin]
        wanted += [self.grpc] if self.form is Form.GRPC else []
        wanted += [] if is_recovering else [self.containerd]
        deadline = time.monotonic() + START_S
        while not all(map(listens, wanted)):
            said = self._log.read_text(errors="replace")[-2000:]
            assert process.returncode is None, f"the sandboxer ended: {said}"
            assert time.monotonic() < deadline, f"the sandboxer does not listen: {said}"
            await asyncio.sleep(0.02)


def listens(path: Path) -> bool:
    """Whether somebody accepts connections there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
        return one.connect_ex(str(path)) == 0
