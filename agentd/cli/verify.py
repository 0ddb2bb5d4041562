"""Prove that a template on disk is whole, that two forks of it share nothing which identifies."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

from agentd.client import calls
from agentd.client.sandbox import execute
from agentd.client.transport import Transport
from agentd.errors import ErrorCode, PeerError
from agentd.units import MIB
from agentd.wire import api

# Seconds of difference between the clocks of guest and host that a fork may show.
_CLOCK_TOLERANCE_S = 1.0

PROBE = """
import json, os, random, socket, time, uuid
def _read(path):
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""
_answer = {
    "urandom": os.urandom(16).hex(),
    "random": repr(random.random()),
    "uuid4": str(uuid.uuid4()),
    "hostname": socket.gethostname(),
    "machine id": _read("/etc/machine-id"),
    "boot id": _read("/proc/sys/kernel/random/boot_id"),
}
try:
    import numpy
    _answer["numpy"] = repr(float(numpy.random.random()))
except ImportError:
    pass
print(json.dumps({"identity": _answer, "clock": time.time(), "workspace": os.listdir()}))
"""


@dataclass(frozen=True)
class Check:
    """One property and whether it holds."""

    name: str
    is_ok: bool
    detail: str


@dataclass(frozen=True)
class Answer:
    """What one fork said of itself; times in seconds since the Unix epoch."""

    identity: Mapping[str, str]
    clock_s: float
    workspace: tuple[str, ...]
    asked_s: float
    answered_s: float


def compare(first: Answer, second: Answer) -> list[Check]:
    """Which properties of a sound template two of its forks show."""
    checks = []
    for name, value in first.identity.items():
        other = second.identity.get(name, "")
        differs = bool(value) and bool(other) and value != other
        checks.append(Check(f"{name} differs", differs, f"{value or '-'} / {other or '-'}"))
    skew_s = max(_skew_s(first), _skew_s(second))
    checks.append(Check("clock is right", skew_s <= _CLOCK_TOLERANCE_S, f"off by {skew_s:.3f} s"))
    left = sorted({*first.workspace, *second.workspace})
    checks.append(Check("workspace is empty", not left, ", ".join(left)))
    return checks


def _skew_s(answer: Answer) -> float:
    return max(answer.asked_s - answer.clock_s, answer.clock_s - answer.answered_s, 0.0)


def verify_template(transport: Transport, name: str) -> list[Check]:
    """Have the files read, fork twice, ask both forks, compare; the forks are ended on every path.

    Raises: SnapStartError if the files are not what was sealed, if a fork does not start or does
    not answer.
    """
    files = describe_files(transport.send(calls.verify_template(name)))
    return [files, *compare(_ask_a_fork(transport, name), _ask_a_fork(transport, name))]


def describe_files(found: api.Verification) -> Check:
    """What was read: a template that is not what was sealed is an error, no failed check."""
    size_bytes = found.data_bytes + found.device_state_bytes
    confirmed = "" if found.has_record else ", which nothing confirms yet"
    detail = f"{size_bytes / MIB:.1f} MiB, memory has SHA-256 {found.sha256}{confirmed}"
    return Check("files are as sealed", True, detail)


def _ask_a_fork(transport: Transport, name: str) -> Answer:
    session = transport.send(calls.create_session(api.CreateSession(template=name)))
    try:
        return _ask(transport, session.id)
    finally:
        transport.send(calls.end_session(session.id))


def _ask(transport: Transport, session_id: str) -> Answer:
    asked_s = time.time()
    wish = api.Execute(code=PROBE, timeout_s=30.0)
    done = execute(transport, session_id, wish, lambda _notice: None)
    answered_s = time.time()
    try:
        said = json.loads("".join(done.logs.stdout))
        identity = {str(key): str(value) for key, value in said["identity"].items()}
        clock_s, workspace = float(said["clock"]), tuple(map(str, said["workspace"]))
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        reason = done.error.value if done.error else f"{done.status} {done.detail}".strip()
        raise PeerError(
            ErrorCode.GUEST_REJECTED,
            f"asking a fork in session {session_id!r} for its identity gave no answer: {reason}",
            hint="see whether ordinary code runs, with `snapctl session exec`",
        ) from exc
    return Answer(identity, clock_s, workspace, asked_s, answered_s)
