"""Start sessions as AgentCube's workload manager does, ask each who it is."""

from __future__ import annotations

import http.client
import json
import secrets
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from agentd.errors import ErrorCode, PeerError
from bench.cluster.result import Reply, Session
from bench.cluster.world import World
from controlplane.api import names
from controlplane.api.core import Sandbox
from controlplane.kube.resource import sandbox_templates, sandboxes
from controlplane.kube.sandboxes import SandboxVersion, running_spec

NAMESPACE = "default"
PORT = 8080
READY_S = 180.0
REPLY_S = 60.0
_LIFE = timedelta(hours=1)

# By builtins of the shell alone: what is measured is the session, not the start of a program in it.
QUESTION = """
read boot < /proc/sys/kernel/random/boot_id
read host < /proc/sys/kernel/hostname
printf '{"boot_id":"%s","session_id":"%s","hostname":"%s"}' "$boot" "$SNAPSTART_SESSION_ID" "$host"
"""
SUM = "print(sum(range(10)))"


@dataclass(frozen=True)
class Begun:
    """A Sandbox that was asked for. at_s: just before, monotonic."""

    name: str
    uid: str
    at_s: float


def session_object(template: dict[str, Any], name: str, version: str) -> dict[str, Any]:
    """The Sandbox of a session, from a SandboxTemplate.

    As AgentCube makes them: the template's Pod, labels of its own, no annotation of ours.
    """
    session_id = str(uuid.uuid4())
    pod = template["spec"]["podTemplate"]
    metadata = pod.get("metadata") or {}
    labels = {names.SESSION_ID: session_id, names.SANDBOX_NAME: name}
    pod_metadata = {**metadata, "labels": {**(metadata.get("labels") or {}), **labels}}
    ends = (datetime.now(UTC) + _LIFE).strftime("%Y-%m-%dT%H:%M:%SZ")
    workload = template["metadata"]["name"]
    return {
        "apiVersion": sandboxes(version).api_version,
        "kind": "Sandbox",
        "metadata": {
            "name": name,
            "namespace": template["metadata"]["namespace"],
            "labels": {
                names.SESSION_ID: session_id,
                names.WORKLOAD_NAME: workload,
                names.SANDBOX_TEMPLATE_REF: workload,
                "managed-by": "agentcube-workload-manager",
            },
        },
        "spec": {
            "podTemplate": {**pod, "metadata": pod_metadata},
            "shutdownTime": ends,
            **running_spec(SandboxVersion(version)),
        },
    }


def begin(world: World, template: str) -> Begun:
    """Create a session's Sandbox."""
    path = sandbox_templates(world.sandbox_version).path(NAMESPACE, template)
    name = f"{template}-{secrets.token_hex(4)}"
    body = session_object(world.cluster.api.get(path), name, world.sandbox_version)
    at_s = time.monotonic()
    made = world.cluster.api.call("POST", sandboxes(world.sandbox_version).path(NAMESPACE), body)
    return Begun(name, made["metadata"]["uid"], at_s)


def finish(world: World, begun: Begun) -> Session:
    """Wait until it is Ready, run code in it. Raises: TransientError, PeerError."""
    observer = world.observer
    ready_s = observer.wait(
        f"Sandbox {begun.name} Ready",
        lambda: observer.ready_at.get(begun.uid),
        deadline_s=READY_S,
    )
    with observer.changed:
        sandbox = observer.sandboxes[(NAMESPACE, begun.name)]
    address = observer.wait("its address", lambda: address_of(world, sandbox), deadline_s=READY_S)
    reply = ask(address)
    replied_s = time.monotonic()
    # How it started stands on its Pod a moment later.
    observer.wait("its origin", lambda: origin_of(world, sandbox), deadline_s=READY_S)
    return describe(world, sandbox, begun.at_s, ready_s, replied_s, reply)


def start(world: World, template: str) -> Session:
    """Create a session, wait for its first reply."""
    return finish(world, begin(world, template))


def describe(
    world: World, sandbox: Sandbox, at_s: float, ready_s: float, replied_s: float, reply: Reply
) -> Session:
    """All that is known of a session that has answered."""
    with world.observer.changed:
        pod = world.observer.pod_of(sandbox)
        assert pod is not None
        origin = pod.metadata.annotation(names.STARTED_FROM)
        # Why no intent was given stands on the Sandbox, why one was not followed on the Pod.
        why = pod.metadata.annotation(names.STARTED_FROM_REASON)
        why = why or sandbox.metadata.annotation(names.COLD_START_REASON)
    return Session(
        name=sandbox.metadata.name,
        node=pod.spec.node_name,
        restored=origin == names.FROM_SNAPSHOT,
        reason=why or ("restored_intent" if origin == names.FROM_SNAPSHOT else "no_intent"),
        key=(sandbox.spec.pod_template.metadata.annotations or {}).get(names.SNAPSHOT_KEY, ""),
        ready_ms=1000 * (ready_s - at_s),
        reply_ms=1000 * (replied_s - at_s),
        reply=reply,
    )


def address_of(world: World, sandbox: Sandbox) -> str:
    """Where its Pod answers, empty if nowhere yet."""
    pod = world.observer.pod_of(sandbox)
    return str((pod.status.get("podIP") if pod else "") or "")


def origin_of(world: World, sandbox: Sandbox) -> str:
    """How its Pod says that it was started."""
    pod = world.observer.pod_of(sandbox)
    return pod.metadata.annotation(names.STARTED_FROM) if pod else ""


def ask(address: str) -> Reply:
    """Who a session is, over its Pod's address. Raises: PeerError."""
    said = execute(address, ["/bin/sh", "-c", QUESTION])
    try:
        return msgspec.json.decode(said, type=Reply)
    except msgspec.DecodeError as exc:
        raise PeerError(ErrorCode.GUEST_PROTOCOL, f"asking {address} who it is: {said!r}") from exc


def run_python(address: str, code: str) -> str:
    """What Python code prints there. Raises: PeerError."""
    return execute(address, ["python3", "-I", "-S", "-c", code]).strip()


def execute(address: str, command: Sequence[str]) -> str:
    """What a command writes to its standard output. Raises: PeerError."""
    body = json.dumps({"command": list(command), "timeout": f"{REPLY_S:.0f}s"})
    link = http.client.HTTPConnection(address, PORT, timeout=REPLY_S)
    try:
        link.request("POST", "/api/execute", body, {"Content-Type": "application/json"})
        answer = link.getresponse()
        found = json.loads(answer.read())
    except (OSError, ValueError, http.client.HTTPException) as exc:
        raise PeerError(ErrorCode.GUEST_PROTOCOL, f"running code at {address}: {exc!r}") from exc
    finally:
        link.close()
    if answer.status != 200 or found.get("exit_code") != 0:
        raise PeerError(
            ErrorCode.GUEST_PROTOCOL, f"running code at {address}: {answer.status} {found}"
        )
    return str(found["stdout"])


def delete(world: World, name: str) -> None:
    """End a session."""
    world.cluster.api.delete(sandboxes(world.sandbox_version).path(NAMESPACE, name))
