"""Find out what the sandboxer of a node is, by questions that change nothing.

Two questions decide, and no answer that both forms give alike: GetPluginInfo on the gRPC socket,
and `template-create` without any member on the admin socket, which every form refuses in its own
words.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import os
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from agentd.errors import ErrorCode, SnapStartError
from agentd.kuasar.admin_socket import AdminSocket
from agentd.kuasar.client import Form

# Of the first sandboxers that could snapshot; $KUASAR_SNAPSHOT_MGMT_SOCK of theirs moves it.
TTRPC_SOCKET: Final = Path("/run/kuasar-vmm/snapshot-mgmt.sock")
_WHAT: Final = "asking which interface it has"


class Standing(enum.StrEnum):
    """What there is on a node. The values do as label values."""

    JSON = Form.JSON.value
    GRPC = Form.GRPC.value
    # It is of the gRPC form, by its admin socket, but its gRPC socket does not answer.
    GRPC_UNREACHABLE = "grpc-unreachable"
    # Older interfaces, which nothing here speaks.
    FROM_SANDBOX = "from-sandbox"
    TTRPC = "ttrpc"
    # No socket at all.
    ABSENT = "absent"
    # A socket file on which nobody listens.
    DEAD_SOCKET = "dead-socket"
    NOT_PERMITTED = "not-permitted"
    # It hangs, or answers what no sandboxer answers.
    FAULT = "fault"

    @property
    def form(self) -> Form | None:
        """What can be spoken with it; None: nothing."""
        return {Standing.JSON: Form.JSON, Standing.GRPC: Form.GRPC}.get(self)


class Sight(enum.StrEnum):
    """What one socket showed of itself, in words for people."""

    ABSENT = "there is no such socket"
    DEAD = "nobody listens on it any more"
    FORBIDDEN = "connecting is not permitted"
    LISTENS = "somebody listens"
    SILENT = "it accepts, but does not answer"
    NONSENSE = "it answers what no sandboxer answers"
    # Of the gRPC socket alone.
    PLUGIN = "a snapshot plugin"
    # Of the admin socket alone.
    CREATES = "a sandboxer's, with template-create"
    CREATES_ELSEWHERE = "a sandboxer's, without template-create"
    KNOWS_NO_TEMPLATES = "a sandboxer's that knows no templates"


@dataclass(frozen=True)
class Seen:
    """One socket. said: what came back, where that says more than `sight`. version: its build's."""

    path: Path
    sight: Sight
    said: str = ""
    version: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.said or self.sight.value}"


@dataclass(frozen=True)
class Probe:
    """What a sandboxer was found to be.

    hint: what to do, empty: nothing. version: of its build, empty: not told.
    """

    standing: Standing
    detail: str
    hint: str
    version: str


async def probe(
    admin: AdminSocket, grpc_socket: Path, *, deadline_s: float, ttrpc_socket: Path = TTRPC_SOCKET
) -> Probe:
    """Ask both sockets at once; nothing is changed by it, and no failure is raised.

    Args: deadline_s: for each of the two answers. ttrpc_socket: only looked at.
    Cancellation: closes both connections.
    """
    async with asyncio.TaskGroup() as group:
        of_grpc = group.create_task(_ask_grpc(grpc_socket, deadline_s), name="kuasar-probe-grpc")
        of_admin = group.create_task(_ask_admin(admin, deadline_s), name="kuasar-probe-admin")
    return judge(of_grpc.result(), of_admin.result(), look_at(ttrpc_socket))


# -- decisions ------------------------------------------------------------------------------------


def judge(grpc: Seen, admin: Seen, ttrpc: Seen) -> Probe:
    """What was seen of the sockets, in one."""
    standing = classify_standing(grpc.sight, admin.sight, ttrpc.sight)
    seen = (ttrpc,) if standing is Standing.TTRPC else (admin, grpc)
    hint = _HINTS.get(standing, "")
    if standing is Standing.GRPC and admin.sight is not Sight.CREATES_ELSEWHERE:
        hint = _ADMIN_HINT
    return Probe(standing, "; ".join(map(str, seen)), hint, grpc.version)


def classify_standing(grpc: Sight, admin: Sight, ttrpc: Sight) -> Standing:
    """The standing that three sockets amount to; the surest sign first."""
    if grpc is Sight.PLUGIN:
        return Standing.GRPC
    if admin is Sight.CREATES:
        return Standing.JSON
    if admin is Sight.KNOWS_NO_TEMPLATES:
        return Standing.FROM_SANDBOX
    if Sight.FORBIDDEN in (admin, grpc):
        return Standing.NOT_PERMITTED
    if admin is Sight.CREATES_ELSEWHERE:
        return Standing.GRPC_UNREACHABLE
    if not {admin, grpc} <= {Sight.ABSENT, Sight.DEAD}:
        return Standing.FAULT
    if ttrpc not in (Sight.ABSENT, Sight.DEAD):
        return Standing.TTRPC
    return Standing.DEAD_SOCKET if Sight.DEAD in (admin, grpc) else Standing.ABSENT


_BY_CODE: Final = {
    ErrorCode.PROVIDER_UNREACHABLE: Sight.DEAD,
    ErrorCode.DEADLINE_EXCEEDED: Sight.SILENT,
    ErrorCode.PERMISSION_DENIED: Sight.FORBIDDEN,
}
_BY_WORDS: Final = {
    "missing sandbox_id": Sight.CREATES,
    "unknown template action: template-create": Sight.CREATES_ELSEWHERE,
    "unknown action: template-create": Sight.KNOWS_NO_TEMPLATES,
}


def classify_failure(exc: SnapStartError) -> Sight:
    """What a socket is that answered GetPluginInfo by an error, or not at all."""
    return _BY_CODE.get(exc.code, Sight.NONSENSE)


def classify_refusal(exc: SnapStartError) -> Sight:
    """What an admin socket is by how it refused a `template-create` of nothing."""
    if exc.code is not ErrorCode.PROVIDER_PROTOCOL:  # what is no reply may contain such words, too
        for words, sight in _BY_WORDS.items():
            if words in exc.message:
                return sight
    return classify_failure(exc)


_OLD_HINT: Final = "install a sandboxer that has template-create or ssi.v1alpha1"
_ADMIN_HINT: Final = (
    "templates and pool are told by the admin socket: let kuasar.admin_socket name that of the "
    "same sandboxer (its --admin-listen)"
)
_HINTS: Final = {
    Standing.GRPC_UNREACHABLE: "let kuasar.grpc_socket name its --grpc-listen; if it does, restart "
    "the sandboxer",
    Standing.FROM_SANDBOX: _OLD_HINT,
    Standing.TTRPC: _OLD_HINT,
    Standing.ABSENT: "start the sandboxer, or let kuasar.admin_socket and kuasar.grpc_socket name "
    "its --admin-listen and --grpc-listen; in a container, mount their directory",
    Standing.DEAD_SOCKET: "start the sandboxer; if it runs, its socket was replaced: in a "
    "container, mount the directory of the sockets, never the files",
    Standing.NOT_PERMITTED: "the sockets are their owner's alone: run as root",
    Standing.FAULT: "look at the sandboxer's log; are these the sockets of a sandboxer?",
}


# -- looking --------------------------------------------------------------------------------------


def look_at(path: Path) -> Seen:
    """Whether somebody listens: by a connection that says nothing. Never waits."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
        one.setblocking(False)
        try:
            code = one.connect_ex(os.fspath(path))
        except OSError as exc:  # a path too long for a socket
            return Seen(path, Sight.ABSENT, str(exc))
    if code in (0, errno.EAGAIN):  # EAGAIN: more wait to be accepted than it lets
        return Seen(path, Sight.LISTENS)
    if code in (errno.EACCES, errno.EPERM):
        return Seen(path, Sight.FORBIDDEN)
    if code == errno.ECONNREFUSED and path.is_socket():
        return Seen(path, Sight.DEAD)
    if code == errno.ECONNREFUSED:
        return Seen(path, Sight.ABSENT, "it is no socket")
    if code in (errno.ENOENT, errno.ENOTDIR):
        return Seen(path, Sight.ABSENT)
    return Seen(path, Sight.NONSENSE, os.strerror(code))


async def _ask_grpc(path: Path, deadline_s: float) -> Seen:
    seen = look_at(path)
    if seen.sight is not Sight.LISTENS:
        return seen
    from agentd.kuasar.ssi import read_plugin_info

    try:
        info = await read_plugin_info(path, deadline_s=deadline_s)
    except SnapStartError as exc:
        return _failed(path, classify_failure(exc), exc)
    said = f"{info.name} {info.version}"
    return replace(seen, sight=Sight.PLUGIN, said=said, version=info.version)


async def _ask_admin(admin: AdminSocket, deadline_s: float) -> Seen:
    seen = look_at(admin.path)
    if seen.sight is not Sight.LISTENS:
        return seen
    try:
        await admin.call(_WHAT, "template-create", deadline_s=deadline_s)
    except SnapStartError as exc:
        sight = classify_refusal(exc)
        if sight in _BY_WORDS.values():
            return replace(seen, sight=sight)
        return _failed(admin.path, sight, exc)
    return replace(seen, sight=Sight.NONSENSE, said="it says that it made a snapshot of nothing")


def _failed(path: Path, sight: Sight, exc: SnapStartError) -> Seen:
    """What could not be reached is looked at again: it may have gone, or be no server of ours."""
    if sight is not Sight.DEAD:
        return Seen(path, sight, exc.message)
    again = look_at(path)
    return Seen(path, Sight.NONSENSE, exc.message) if again.sight is Sight.LISTENS else again
