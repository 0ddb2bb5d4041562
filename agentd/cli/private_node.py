"""Run an agentd of one's own: a real process on directories that go with it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import psutil

from agentd.client import Sandbox
from agentd.client.calls import (
    Call,
    create_template,
    health,
    list_templates,
    remove_template,
    show_template,
    usage,
)
from agentd.client.transport import Transport
from agentd.errors import ErrorCode, PermanentError, SnapStartError, TransientError
from agentd.wire import api

T = TypeVar("T")

_START_TIMEOUT_S = 60.0
_BUILD_TIMEOUT_S = 300.0
_LOG_TAIL_CHARACTERS = 2000


class Node:
    """An agentd process; leaving the block ends its sessions, the process, its directories.

    Args: image_cache_dir: where guest images are. settings: `GROUP__FIELD` to value, as the
    environment variables of agentd without their prefix.
    """

    def __init__(self, image_cache_dir: Path, **settings: str) -> None:
        self._image_cache_dir = image_cache_dir
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        # Socket paths end at 107 bytes, so this is not below the build directory.
        self.root = Path(tempfile.mkdtemp(prefix="snapstart-"))
        self.socket = self.root / "run" / "agentd.sock"
        self.log = self.root / "agentd.log"
        # Whose agentd the next start runs; None is the one that runs this.
        self.checkout: Path | None = None

    @property
    def pid(self) -> int:
        """Of the running daemon."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Node:
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self._end_sessions()
            self.stop()
        self._end_machines()
        shutil.rmtree(self.root, ignore_errors=True)

    def start(self, **settings: str) -> None:
        """Start the daemon and wait until it answers. settings: beside the node's, this once."""
        all_settings = {**self._settings, **settings}
        environ = {f"SNAPSTART_{name}": value for name, value in all_settings.items()}
        environ["SNAPSTART_PATHS__IMAGE_CACHE_DIR"] = str(self._image_cache_dir)
        argv = [sys.executable, "-m", "agentd.cli.agentd", "serve"]
        argv += ["--data-dir", str(self.root / "data"), "--run-dir", str(self.root / "run")]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stderr=log,
                env={**os.environ, **environ},
                cwd=self.checkout,  # from where `-m` imports first
            )
        self._await_health()

    def _await_health(self) -> None:
        assert self._process is not None
        give_up = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                self.send(health())
                return
            except SnapStartError as exc:
                if self._process.poll() is not None or time.monotonic() > give_up:
                    raise self._start_error(exc) from exc
                time.sleep(0.05)

    def _start_error(self, exc: SnapStartError) -> SnapStartError:
        """Why there is no daemon, with the code that it ended with."""
        assert self._process is not None
        log = self.log.read_text(errors="replace")[-_LOG_TAIL_CHARACTERS:].rstrip()
        for code in ErrorCode:
            if code.exit_code == self._process.returncode:
                return PermanentError(code, f"starting agentd: {log.rpartition(chr(10))[2]}")
        message = f"starting agentd: {exc.message}; it logged:\n{log}"
        return TransientError(ErrorCode.AGENT_UNREACHABLE, message)

    def stop(self) -> None:
        """Stop the daemon; its sessions go on."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(timeout=60)

    def kill(self) -> None:
        """End the daemon as a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def reap(self) -> None:
        """Wait for a daemon that something else has killed."""
        assert self._process is not None
        self._process.wait(timeout=60)

    def templates(self) -> list[api.Template]:
        """Every template, sealed or not."""
        return self.send(list_templates()).templates

    def remove_template(self, name: str) -> None:
        """Remove one."""
        self.send(remove_template(name))

    def send(self, call: Call[T]) -> T:
        """One request on a connection of its own."""
        transport = Transport(self.socket)
        try:
            return transport.send(call)
        finally:
            transport.close()

    def build_template(
        self, name: str, image: str, *, memory_mib: int | None = None
    ) -> api.Template:
        """Build a template and wait for it. Raises: PermanentError with the build's own code."""
        wish = api.CreateTemplate(name=name, image=image, memory_mib=memory_mib)
        return self.wait_for_template(self.send(create_template(wish)))

    def wait_for_template(self, template: api.Template) -> api.Template:
        """Wait until it is ready. Raises: as `build_template`."""
        give_up = time.monotonic() + _BUILD_TIMEOUT_S
        while template.state is api.TemplateState.BUILDING and time.monotonic() < give_up:
            time.sleep(0.1)
            template = self.send(show_template(template.name))
        if template.state is not api.TemplateState.READY:
            raise _build_error(template)
        return template

    def create(self, template: str, *, mode: api.SessionMode = api.SessionMode.FORK) -> Sandbox:
        """Start a session."""
        return Sandbox.create(template, mode=mode, socket=self.socket, request_timeout=180)

    def usages(self) -> dict[str, api.Usage]:
        """What each session's machine uses."""
        return {row.session: row for row in self.send(usage()).usage}

    def rss_bytes(self) -> int:
        """What the daemon itself keeps in memory."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def _end_machines(self) -> None:
        """What a daemon that died, or never came back, has left running."""
        file = self.root / "data" / "installation-id"
        if not file.exists():
            return
        prefix = f"guest=snapstart/{file.read_text().strip()}/"
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if any(word.startswith(prefix) for word in process.cmdline()):
                    process.kill()

    def _end_sessions(self) -> None:
        try:
            for session in Sandbox.list(socket=self.socket):
                if session.state is not api.SessionState.ENDED:
                    Sandbox.connect(session.id, socket=self.socket).kill()
        except SnapStartError:
            return


def _build_error(template: api.Template) -> SnapStartError:
    """Why a build gave no template, with the code that the daemon gave."""
    what = f"building template {template.name!r}"
    if template.error is None:
        code = ErrorCode.TEMPLATE_BUILD_FAILED
        return PermanentError(code, f"{what}: it is {template.state.value}")
    error = template.error
    return PermanentError(ErrorCode(error.code), f"{what}: {error.message}", hint=error.hint)
