"""Look at this machine's Kuasar sandboxer and say what SnapStart will miss with it.

Nothing is changed, and nothing is asked that could keep Pods from starting; so not for sandboxes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd.cli.doctor_checks import Check, Level
from agentd.cli.tables import span
from agentd.errors import ConfigError, SnapStartError
from agentd.kuasar.access import SandboxerAccess
from agentd.kuasar.client import Form, KuasarClient, PoolStatus
from agentd.kuasar.node_config import NodeConfig, TemplatePool, judge_node_config, read_node_config
from agentd.kuasar.probe import Probe, Seen, Sight, Standing, look_at
from agentd.settings import Settings
from controlplane.api.types import SnapshotMode

ANSWER_S: Final = 10.0
# A sandboxer serves before it has found its sandboxes again; recovery is over by then.
RECOVERY_S: Final = 60.0
_NEARLY_FULL: Final = 0.8
_WRITABLE_BY_OTHERS: Final = 0o022  # connecting to a socket takes the permission to write
_LOG_HINT: Final = "look at the sandboxer's log"
_ENABLE_HINT: Final = "set it in agentd's settings; --config names another file of them"


@dataclass(frozen=True)
class Node:
    """Where to look. mountinfo: of proc(5). now_s: since the epoch. answer_s: for each answer."""

    settings: Settings
    mountinfo: str
    now_s: float
    answer_s: float = ANSWER_S

    @property
    def sockets(self) -> tuple[Path, Path]:
        """The sandboxer's, that of its admin first."""
        return self.settings.kuasar.admin_socket, self.settings.kuasar.grpc_socket


def run_kuasar_checks(node: Node) -> list[Check]:
    """Every check, from the outside in; none of them raises or changes anything."""
    return asyncio.run(kuasar_checks(node))


async def kuasar_checks(node: Node) -> list[Check]:
    """As `run_kuasar_checks`. Cancellation: closes every connection."""
    kuasar = node.settings.kuasar
    found, client = await _reach(node)
    form = found.standing.form
    config, of_config = check_config(kuasar.config_file, form)
    admin, grpc = (look_at(path) for path in node.sockets)
    return [
        check_settings(node.settings),
        check_admin_socket(admin, found),
        check_grpc_socket(grpc, found),
        check_mounts(node.sockets, node.mountinfo),
        check_form(found),
        check_version(found),
        check_recovery((admin, grpc), look_at(kuasar.listen_socket), node.now_s),
        *await _check_client(node, client, _watermark(config)),
        await _check_runtime(node, form),
        *of_config,
    ]


async def _reach(node: Node) -> tuple[Probe, KuasarClient | None]:
    """What is there, and a client of it, if there can be one."""
    probes: list[Probe] = []
    access = SandboxerAccess(node.settings.kuasar, probes.append, probe_s=node.answer_s)
    client = None
    with contextlib.suppress(SnapStartError):
        client = await access.client()
    return probes[-1], client


# -- what is told without a call ------------------------------------------------------------------


def check_settings(settings: Settings) -> Check:
    """Whether agentd is told to use the sandboxer."""
    groups = {"kuasar": settings.kuasar.enabled, "node": settings.node.enabled}
    missing = [f"{name}.enabled" for name, is_set in groups.items() if not is_set]
    if missing:
        detail = f"{', '.join(missing)} not set: agentd leaves the sandboxer alone"
        return Check("settings", Level.WARN, detail, _ENABLE_HINT)
    return Check("settings", Level.OK, f"agentd offers it as {settings.kuasar.provider}")


def check_admin_socket(seen: Seen, found: Probe) -> Check:
    """The socket that both forms have."""
    if seen.sight is not Sight.LISTENS:
        return Check("admin socket", Level.FAIL, str(seen), found.hint or _LOG_HINT)
    return _check_permissions("admin socket", seen.path)


def check_grpc_socket(seen: Seen, found: Probe) -> Check:
    """The socket that only one form has."""
    name = "grpc socket"
    if seen.sight is Sight.LISTENS:
        return _check_permissions(name, seen.path)
    if found.standing is not Standing.JSON:
        return Check(name, Level.FAIL, str(seen), found.hint or _LOG_HINT)
    if seen.sight is Sight.ABSENT:
        return Check(name, Level.OK, f"{seen}; the JSON form has none")
    return Check(name, Level.WARN, str(seen), f"rm {seen.path}: the JSON form has none")


def _check_permissions(name: str, path: Path) -> Check:
    try:
        facts = path.stat()
    except OSError as exc:
        return Check(name, Level.FAIL, f"{path}: {exc.strerror}", _LOG_HINT)
    mode = facts.st_mode & 0o777
    detail = f"{path} mode {mode:04o} owner {facts.st_uid}:{facts.st_gid}, somebody listens"
    if mode & _WRITABLE_BY_OTHERS:
        hint = f"chmod go-w {path}: whoever reaches it may snapshot and delete; or give umask 022"
        return Check(name, Level.WARN, f"{detail}, open to others", hint)
    return Check(name, Level.OK, detail)


def check_mounts(sockets: Sequence[Path], mountinfo: str) -> Check:
    """Whether a socket is mounted as a file: it stays the old one when its server makes it anew."""
    lines = [line.split() for line in mountinfo.splitlines()]
    points = {_unescaped(fields[4]) for fields in lines if len(fields) > 4}
    mounted = [str(path) for path in sockets if os.path.realpath(path) in points]
    if mounted:
        detail = f"mounted as a file: {', '.join(mounted)}; dead after the sandboxer's next start"
        return Check("mounts", Level.WARN, detail, "mount the directory of the sockets instead")
    return Check("mounts", Level.OK, "no socket is mounted as a file")


def _unescaped(point: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), point)


def check_form(found: Probe) -> Check:
    """Which interface it has, by what it refuses and answers."""
    detail = f"{found.standing.value}: {found.detail}"
    if found.standing.form is None:
        return Check("form", Level.FAIL, detail, found.hint or _LOG_HINT)
    return Check("form", Level.WARN if found.hint else Level.OK, detail, found.hint)


def check_version(found: Probe) -> Check:
    """Of its build."""
    if found.standing is Standing.GRPC:
        return Check("version", Level.OK, found.version or "it announces none")
    if found.standing is Standing.JSON:
        return Check("version", Level.OK, "the JSON form does not tell one")
    return _not_asked("version")


def check_recovery(sockets: Sequence[Seen], runtime: Seen, now_s: float) -> Check:
    """Whether it knows its sandboxes: by the socket that it serves only then, else by age.

    Args: sockets: those it serves from the start, made anew each time. runtime: its container
    runtime's.
    """
    if runtime.sight is Sight.LISTENS:
        return Check("recovery", Level.OK, f"it serves {runtime.path}, so it has recovered")
    made_s = []
    for one in sockets:
        with contextlib.suppress(OSError):
            if one.sight is Sight.LISTENS:
                made_s.append(one.path.stat().st_mtime)
    if not made_s:
        return _not_asked("recovery")
    age_s = max(0.0, now_s - max(made_s))
    detail = f"its sockets were made {span(age_s)} ago"
    if age_s < RECOVERY_S:
        hint = "look again in a minute; agentd deletes nothing before it knows its sandboxes again"
        return Check("recovery", Level.WARN, f"{detail}: it may still recover", hint)
    return Check("recovery", Level.OK, detail)


def check_config(path: Path, form: Form | None) -> tuple[NodeConfig | None, list[Check]]:
    """The sandboxer's own settings, with a verdict on each that matters."""
    try:
        config = read_node_config(path)
    except ConfigError as exc:
        return None, [Check("config file", Level.WARN, exc.message, exc.hint)]
    return config, [
        Check(one.key, Level(one.level.value), one.detail, one.hint)
        for one in judge_node_config(config, form)
    ]


def _watermark(config: NodeConfig | None) -> int:
    pool = config.template_pool if config else None
    return (pool or TemplatePool()).gc_watermark


# -- what it answers ------------------------------------------------------------------------------


async def _check_client(node: Node, client: KuasarClient | None, watermark: int) -> list[Check]:
    if client is None:
        return [_not_asked("pool"), _not_asked("modes")]
    return [
        await _answered(node, "pool", _pool(client, watermark)),
        await _answered(node, "modes", _modes(client)),
    ]


async def _answered(node: Node, name: str, call: Awaitable[Check]) -> Check:
    try:
        async with asyncio.timeout(node.answer_s):
            return await call
    except TimeoutError:
        return Check(name, Level.FAIL, f"no answer within {node.answer_s:g} s", _LOG_HINT)
    except SnapStartError as exc:
        return Check(name, Level.FAIL, exc.message, exc.hint or _LOG_HINT)


async def _pool(client: KuasarClient, watermark: int) -> Check:
    return check_pool(await client.pool(), watermark)


def check_pool(pool: PoolStatus, watermark: int) -> Check:
    """How full the store is. watermark: its gc_watermark, in templates."""
    detail = f"{pool.total} of {watermark} templates, {len(pool.uses)} in use"
    hint = "delete snapshots, or raise [template_pool] gc_watermark"
    if pool.total >= watermark:
        detail = f"{detail}: a new one costs the oldest idle one, of whichever key"
        return Check("pool", Level.WARN, detail, hint)
    if pool.total >= watermark * _NEARLY_FULL:
        return Check("pool", Level.WARN, f"{detail}: nearly full", hint)
    return Check("pool", Level.OK, detail)


async def _modes(client: KuasarClient) -> Check:
    found = await client.modes()
    detail = f"at most {', '.join(sorted(one.value for one in found)) or 'none'}"
    if SnapshotMode.FORK not in found:
        hint = "set [template_pool], container_storage_backend and enable_warmfork_restore"
        return Check("modes", Level.FAIL, detail, hint)
    return Check("modes", Level.OK, detail)


async def _check_runtime(node: Node, form: Form | None) -> Check:
    """The container runtime; one form is useless without it, the other does not need it."""
    check = await _answered(node, "cri socket", _runtime(node))
    if check.level is Level.FAIL and form is Form.GRPC:
        hint = f"{check.hint}; the gRPC form does without"
        return Check(check.name, Level.WARN, check.detail, hint)
    return check


async def _runtime(node: Node) -> Check:
    from agentd.kuasar.cri import Cri

    path = node.settings.kuasar.cri_socket
    pods = await Cri(path, call_s=node.answer_s).pod_uids()
    return Check("cri socket", Level.OK, f"{path} lists {len(pods)} Pod sandboxes")


def _not_asked(name: str) -> Check:
    detail = "not asked: there is no sandboxer that answers"
    return Check(name, Level.WARN, detail, "first repair what `form` says")
