"""Judge what SnapStart talks to: sockets of this node, the API server, the artifact store."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from agentd.cli.doctor_checks import Check, Level
from agentd.settings import Settings

_ANSWER_S: Final = 3.0
_OPEN_TO_OTHERS: Final = 0o002
_SHOWN: Final = 60
_SENTINEL_PORT: Final = 26379
_DATA_PORT: Final = 6379


@dataclass(frozen=True)
class SocketFacts:
    """error: of looking or connecting, empty if somebody listens."""

    path: Path
    mode: int = 0
    owner: str = ""
    error: str = ""


@dataclass(frozen=True)
class Answer:
    """What somebody far away said. who: empty: nobody is configured. error: empty: it is well."""

    who: str
    said: str = ""
    error: str = ""


def gather_socket(path: Path, answer_s: float = _ANSWER_S) -> SocketFacts:
    """Look at a socket file, and whether somebody listens; nothing is said to him."""
    try:
        facts = path.stat()
    except OSError as exc:
        return SocketFacts(path, error=str(exc.strerror))
    mode, owner = stat.S_IMODE(facts.st_mode), f"{facts.st_uid}:{facts.st_gid}"
    if not stat.S_ISSOCK(facts.st_mode):
        return SocketFacts(path, mode, owner, "it is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.settimeout(answer_s)
        try:
            probe.connect(str(path))
        except OSError as exc:
            return SocketFacts(path, mode, owner, exc.strerror or str(exc))
    return SocketFacts(path, mode, owner)


def judge_socket(name: str, facts: SocketFacts | None, setting: str, *, is_needed: bool) -> Check:
    """facts: None if nothing here uses it. is_needed: nothing works without."""
    if facts is None:
        return Check(name, Level.SKIP, "nothing here uses it", f"set {setting} if it should")
    level = Level.FAIL if is_needed else Level.WARN
    if facts.error:
        hint = f"start its server, or correct {setting}"
        return Check(name, level, f"{facts.path}: {facts.error}", hint)
    detail = f"{facts.path} mode {facts.mode:04o} owner {facts.owner}, somebody listens"
    if facts.mode & _OPEN_TO_OTHERS:
        return Check(name, Level.WARN, f"{detail}, open to everybody", f"chmod o-w {facts.path}")
    return Check(name, Level.OK, detail)


def judge_answer(name: str, answer: Answer, setting: str, hint: str) -> Check:
    """Of somebody far away."""
    if not answer.who:
        return Check(name, Level.SKIP, "none is configured here", f"{setting} names one")
    if answer.error:
        return Check(name, Level.FAIL, f"{answer.who}: {answer.error}", hint)
    return Check(name, Level.OK, f"{answer.who}: {answer.said}")


# -- the API server -------------------------------------------------------------------------------


def ask_api_server(
    settings: Settings, environ: Mapping[str, str], answer_s: float = _ANSWER_S
) -> Answer:
    """Whether it answers to our credentials; asked only where some are configured."""
    kubeconfig = settings.node.kubeconfig or environ.get("KUBECONFIG", "")
    in_pod = environ.get("KUBERNETES_SERVICE_HOST", "")
    if not (settings.node.enabled or kubeconfig or in_pod):
        return Answer("")
    who = kubeconfig or in_pod or "~/.kube/config"
    try:
        return Answer(who, asyncio.run(_ask_version(kubeconfig, environ, answer_s)))
    except TimeoutError:
        return Answer(who, error=f"no answer within {answer_s:g} s")
    except Exception as exc:
        return Answer(who, error=str(exc))


async def _ask_version(kubeconfig: str, environ: Mapping[str, str], answer_s: float) -> str:
    """Imported when used: it takes as long to load as all other commands together."""
    from controlplane.kube.client import open_kube
    from controlplane.kube.connect import KubeSettings
    from controlplane.kube.resource import NAMESPACES

    kube = KubeSettings(
        kubeconfig=kubeconfig, user_agent="snapctl-doctor",
        call_timeout_s=answer_s, connect_timeout_s=answer_s,
    )  # fmt: skip
    async with asyncio.timeout(2 * answer_s), await open_kube(kube, environ=environ) as api:
        found = await api.get(NAMESPACES, "kube-system")
    return f"answers, cluster {found['metadata']['uid']}"


# -- the artifact store ---------------------------------------------------------------------------


def ask_store(environ: Mapping[str, str], answer_s: float = _ANSWER_S) -> Answer:
    """Whether a Redis or Valkey answers where the environment says; no password is sent."""
    kind = (environ.get("STORE_TYPE") or "redis").strip().upper()
    address = environ.get(f"{kind}_ADDR", "").strip()
    if not address:
        return Answer("")
    try:
        who, where, is_tls = parse_store(address)
    except ValueError as exc:  # which does not repeat the address: it may hold a password
        return Answer(f"{kind}_ADDR", error=f"cannot be read: {exc}")
    ca_file = environ.get(f"{kind}_TLS_CA_FILE") or None
    try:
        said = _ping(where, ca_file, answer_s, is_tls=is_tls)
    except OSError as exc:
        return Answer(who, error=exc.strerror or str(exc))
    if said.startswith(("+PONG", "-NOAUTH", "-DENIED")):
        return Answer(who, f"answers {said!r}")
    return Answer(who, error=f"answers {said!r}, as no Redis does")


def parse_store(address: str) -> tuple[str, str | tuple[str, int], bool]:
    """Its first server for people, where to connect, whether by TLS. Raises: ValueError."""
    url = urlsplit(address if "://" in address else f"redis://{address}")
    scheme = url.scheme.replace("valkey", "redis", 1)
    if scheme == "unix":
        return url.path, url.path, False
    first = url.netloc.rpartition("@")[2].partition(",")[0]
    host = urlsplit(f"//{first}")
    if not host.hostname:
        raise ValueError("it has no host")
    port = host.port or (_SENTINEL_PORT if "sentinel" in scheme else _DATA_PORT)
    return f"{host.hostname}:{port}", (host.hostname, port), scheme.startswith("rediss")


def _ping(
    where: str | tuple[str, int], ca_file: str | None, answer_s: float, *, is_tls: bool
) -> str:
    """The first line of its answer to an inline PING. Raises: OSError."""
    with contextlib.ExitStack() as stack:
        if isinstance(where, str):
            plain = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            plain.settimeout(answer_s)
            plain.connect(where)
        else:
            plain = stack.enter_context(socket.create_connection(where, answer_s))
        link: socket.socket = plain
        if is_tls and not isinstance(where, str):
            context = ssl.create_default_context(cafile=ca_file)
            link = stack.enter_context(context.wrap_socket(plain, server_hostname=where[0]))
        link.settimeout(answer_s)
        link.sendall(b"PING\r\n")
        return link.recv(_SHOWN).partition(b"\r\n")[0].decode(errors="replace")
