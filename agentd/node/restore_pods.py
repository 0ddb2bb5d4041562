"""Define the part of a session's Pod that tells how it was to start, and whether it did."""

from __future__ import annotations

import ipaddress
from datetime import datetime
from typing import Final

import msgspec

from agentd.node.pod_subject import subject_of
from agentd.node.pod_types import ContainerPort
from controlplane.api import names
from controlplane.api.builds import is_marked_build
from controlplane.api.meta import Camel, Condition, ObjectMeta
from controlplane.kube.events import ObjectRef

_PORT: Final = 8080


class _Container(Camel, frozen=True):
    ports: tuple[ContainerPort, ...] | None = None


class _Spec(Camel, frozen=True):
    host_network: bool = False
    containers: tuple[_Container, ...] = ()


class _Running(Camel, frozen=True):
    started_at: datetime | None = None


class _State(Camel, frozen=True):
    running: _Running | None = None


class _ContainerStatus(Camel, frozen=True):
    state: _State = _State()


class _Status(Camel, frozen=True):
    phase: str = ""
    pod_ip: str = msgspec.field(name="podIP", default="")
    conditions: tuple[Condition, ...] | None = None
    container_statuses: tuple[_ContainerStatus, ...] | None = None


class SessionPod(Camel, frozen=True):
    """A Pod, which may be no session's at all."""

    metadata: ObjectMeta
    spec: _Spec = _Spec()
    status: _Status = _Status()

    @property
    def restore_key(self) -> str:
        """Of the snapshot that it was to start from; empty: it was not to, or is a build.

        The sandboxer's own selector comes first, as it does there.
        """
        meta = self.metadata
        if is_marked_build(meta):
            return ""
        return meta.annotation(names.KUASAR_TEMPLATE_KEY) or meta.annotation(names.SNAPSHOT_KEY)

    @property
    def started_from(self) -> str:
        """What was found before; empty: nothing yet."""
        return self.metadata.annotation(names.STARTED_FROM)

    @property
    def is_running(self) -> bool:
        """It has a sandbox, and keeps it."""
        return self.status.phase == "Running" and not self.metadata.is_terminating

    @property
    def is_ready(self) -> bool:
        """It is meant to be served from."""
        found = self.status.conditions or ()
        return any(one.type == "Ready" and one.status == "True" for one in found)

    @property
    def started_at(self) -> datetime | None:
        """When the last of its containers that run started; None: none runs."""
        states = (one.state.running for one in self.status.container_statuses or ())
        return max((one.started_at for one in states if one and one.started_at), default=None)

    @property
    def guest(self) -> tuple[str, int] | None:
        """Where its guest would serve HTTP: its own address, the first TCP port it declares.

        None: it has no address of its own; what listens on the node's is nobody's guest.
        """
        if self.spec.host_network or not _is_address(self.status.pod_ip):
            return None
        containers = self.spec.containers[:1]
        ports = (port for one in containers for port in one.ports or () if port.protocol == "TCP")
        return self.status.pod_ip, next((one.container_port for one in ports), 0) or _PORT

    @property
    def subject(self) -> ObjectRef:
        """Where people look: its Sandbox if it has one."""
        return subject_of(self)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
