"""Run py-spy or perf over a command, or over a process that runs already."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from agentd.errors import ConfigError, ErrorCode, PeerError
from bench.profile.flame import draw
from bench.profile.folding import SCRIPT_FIELDS, fold

TOOLS = {
    "py-spy": "install it: .venv/bin/python -m pip install py-spy",
    "perf": "install it: apt-get install linux-perf",
}
_RATE_HZ = "199"
_STOP_S = 60.0


def find_tool(name: str) -> str:
    """Its path, the one beside this Python first. Raises: ConfigError."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        what = f"profiling with {name}: there is no such program"
        raise ConfigError(ErrorCode.CONFIG_INVALID, what, hint=TOOLS[name])
    return found


class Recorder:
    """One tool that writes one flame graph. graph: an SVG; perf's samples lie beside it."""

    def __init__(self, tool: str, graph: Path) -> None:
        self._tool = tool
        self._path = find_tool(tool)
        self._graph = graph
        self._data = graph.with_suffix(".data")

    def command(self, argv: Sequence[str]) -> None:
        """Record a command from its start to its end. Raises: PeerError when either fails."""
        done = subprocess.run([*self._argv(), "--", *argv], stdin=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise _failed(self._tool, done.returncode, "see its words above")
        self._finish(" ".join(argv[-2:]))

    @contextlib.contextmanager
    def attached(self, pid: int, title: str) -> Iterator[None]:
        """Record a process for the length of the block. Raises: PeerError."""
        option = "--pid" if self._tool == "py-spy" else "-p"
        # In a session of its own: a Ctrl-C is for us, who stop it then.
        process = subprocess.Popen(
            [*self._argv(attaches=True), option, str(pid)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            yield
        finally:
            process.send_signal(signal.SIGINT)
            try:
                _, words = process.communicate(timeout=_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                _, words = process.communicate()
        # A recorder that is told to stop may end by that signal.
        if process.returncode not in (0, -signal.SIGINT, 128 + signal.SIGINT):
            raise _failed(self._tool, process.returncode, words.decode(errors="replace").strip())
        self._finish(title)

    def _argv(self, *, attaches: bool = False) -> list[str]:
        if self._tool == "py-spy":
            # Threads that wait in a call of ours look busy to it; who holds the interpreter is.
            more = ["--gil"] if attaches else ["--subprocesses"]
            return [self._path, "record", "--rate", _RATE_HZ, "--output", str(self._graph), *more]
        return [self._path, "record", "-q", "-F", _RATE_HZ, "-g", "-o", str(self._data)]

    def _finish(self, title: str) -> None:
        if self._tool == "perf":
            argv = [self._path, "script", "-i", str(self._data), "-F", SCRIPT_FIELDS]
            done = subprocess.run(argv, capture_output=True, text=True, errors="replace")
            if done.returncode:
                raise _failed("perf script", done.returncode, done.stderr.strip())
            self._graph.write_text(draw(fold(done.stdout.splitlines()), title), encoding="utf-8")
        if not self._graph.exists() or not self._graph.stat().st_size:
            raise _failed(self._tool, 0, "it wrote no graph: there was nothing to sample")


def _failed(tool: str, status: int, words: str) -> PeerError:
    return PeerError(
        ErrorCode.INTERNAL,
        f"profiling with {tool}: it ended with status {status}: {words}",
        hint="it may look at other processes as root only, or with kernel.perf_event_paranoid "
        "and kernel.yama.ptrace_scope below 2",
    )
