"""Drive the stand-in VMM of tests/native through `native.fork`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agentd import native

ROOT = Path(__file__).resolve().parents[3]
QMP_LINES = (
    b'{"execute":"qmp_capabilities","id":1}\n'
    b'{"execute":"migrate-set-capabilities","id":2}\n'
    b'{"execute":"migrate-incoming","id":3}\n'
)
PREPARE = json.dumps({"type": "PREPARE", "task_id": "t-1", "context": "{}"}).encode()


def compile_standin(directory: Path) -> Path:
    """Compile the stand-in; returns its path."""
    program = directory / "standin_vmm"
    sources = [ROOT / "tests/native/standin_vmm.c", ROOT / "native/core/mux.c"]
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", f"-I{ROOT}/native/core"]
    subprocess.run(["gcc", *flags, *map(str, sources), "-o", str(program)], check=True)
    return program


@dataclass(frozen=True)
class Standin:
    """What a test needs to start one fork of the stand-in."""

    program: Path
    directory: Path

    @property
    def log(self) -> Path:
        """The inject messages that the guest received."""
        return self.directory / "inject.log"

    def messages(self) -> list[dict[str, object]]:
        """The inject messages that the guest received, decoded."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    @contextmanager
    def request(self, fault: str, prepare: bytes = PREPARE) -> Iterator[native.ForkRequest]:
        """A fork request whose descriptors live as long as the block."""
        with ExitStack() as stack:
            qmp_listening, qmp = self._pair(stack, "qmp")
            channel_listening, channel = self._pair(stack, "channel")
            output = stack.enter_context((self.directory / "output").open("wb"))
            yield native.ForkRequest(
                spawn=native.SpawnRequest(
                    executable=str(self.program),
                    argv=["standin_vmm", "3", "4", fault, str(self.log)],
                    env={"PATH": os.environ["PATH"]},
                    fds={3: qmp_listening.fileno(), 4: channel_listening.fileno()},
                    output_fd=output.fileno(),
                ),
                qmp_fd=qmp.fileno(),
                qmp_lines=QMP_LINES,
                qmp_replies=3,
                channel_fd=channel.fileno(),
                prepare=prepare,
            )

    def _pair(self, stack: ExitStack, name: str) -> tuple[socket.socket, socket.socket]:
        path = str(self.directory / name)
        listening = stack.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(path)
        stack.callback(os.unlink, path)
        listening.listen(1)
        client = stack.enter_context(socket.socket(socket.AF_UNIX))
        client.connect(path)
        return listening, client
