"""Run the shell commands that POST /api/execute asks for."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from agentd.guest.http_files import HttpError, confine
from agentd.guest.wire import JsonObject

DEFAULT_TIMEOUT_S = 60.0
TIMEOUT_EXIT_CODE = 124
OUTPUT_MAX_BYTES = 16 * 1024 * 1024
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)").fullmatch
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Command:
    """A validated request."""

    arguments: tuple[str, ...]
    timeout_s: float = DEFAULT_TIMEOUT_S
    working_dir: str = ""
    env: Mapping[str, str] = field(default_factory=dict)


def parse_command(request: JsonObject) -> Command:
    """Raises HttpError 400. A command that is one text is given to the shell."""
    command = request.get("command")
    if isinstance(command, str) and command:
        command = ["/bin/sh", "-c", command]
    if not isinstance(command, list) or not command or not _is_texts(command):
        raise HttpError(400, "member 'command' is a list of text, not empty")
    env = request.get("env") or {}
    if not isinstance(env, dict) or not _is_texts([*env, *env.values()]):
        raise HttpError(400, "member 'env' is an object of text")
    working_dir = request.get("working_dir") or ""
    if not isinstance(working_dir, str):
        raise HttpError(400, "member 'working_dir' is not text")
    timeout_s = _timeout(request.get("timeout"))
    return Command(tuple(command), timeout_s, working_dir, env)


def _is_texts(values: list[object]) -> bool:
    return all(isinstance(value, str) and "\0" not in value for value in values)


def _timeout(value: object) -> float:
    if value in (None, "", 0):
        return DEFAULT_TIMEOUT_S
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        return float(value)
    match = _DURATION(value) if isinstance(value, str) else None
    if match is None:
        raise HttpError(400, "member 'timeout' is not a duration such as '30s'")
    return float(match[1]) * _UNIT_S[match[2]]


def run_command(command: Command, workspace: str, environment: Mapping[str, str]) -> JsonObject:
    """Run it to its end or its time-out, then kill what is left of its process group."""
    started = datetime.now(UTC)
    begin_s = time.monotonic()
    directory = confine(workspace, command.working_dir) if command.working_dir else workspace
    try:
        process = subprocess.Popen(
            command.arguments,
            cwd=directory,
            env={**environment, **command.env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as exc:
        return _response("", str(exc), 1, started, begin_s)
    note = ""
    try:
        stdout, stderr = process.communicate(timeout=command.timeout_s)
        exit_code = process.returncode
    except subprocess.TimeoutExpired:
        _kill_group(process.pid)
        stdout, stderr = process.communicate()
        exit_code = TIMEOUT_EXIT_CODE
        note = f"Command timed out after {command.timeout_s:.0f} seconds"
    return _response(_text(stdout), _text(stderr) + note, exit_code, started, begin_s)


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _text(data: bytes) -> str:
    return data[:OUTPUT_MAX_BYTES].decode("utf-8", "replace")


def _response(
    stdout: str, stderr: str, exit_code: int, started: datetime, begin_s: float
) -> JsonObject:
    return {
        "stdout": stdout,
        "stderr": stderr,
        "exit_code": exit_code,
        "duration": time.monotonic() - begin_s,
        "start_time": started.isoformat().replace("+00:00", "Z"),
        "end_time": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
    }
