"""Tell on this machine's Node how its Kuasar sandboxer does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from agentd.engine.trace import Tracer
from agentd.health import PartState
from agentd.kuasar.access import PROBE_S
from agentd.kuasar.admin_socket import AdminSocket
from agentd.kuasar.node_config import Finding, Level, find_warnings
from agentd.kuasar.probe import Probe, probe
from agentd.settings import Kuasar
from controlplane.api.meta import Condition, JsonObject
from controlplane.errors import ControlPlaneError
from controlplane.kube.api import KubeApi
from controlplane.kube.resource import NODES

CONDITION: Final = "SnapStartSandboxer"
# What /readyz calls it.
SANDBOXER: Final = "sandboxer"
# A label of the Node: what its sandboxer was found to be.
LABEL: Final = "snapstart.agentcube.volcano.sh/kuasar"
EVERY_S: Final = 60.0
HEARTBEAT: Final = timedelta(minutes=5)
_MANAGER: Final = "snapstart-agentd-kuasar"
_MESSAGE_MAX: Final = 1024

# Warnings by which sessions start cold although everything seems to work.
_SPOILING: Final = frozenset({"lease_mode"})
_UNREAD: Final = "config_file"


# -- decisions ------------------------------------------------------------------------------------


def judge_sandboxer(found: Probe, findings: Sequence[Finding]) -> Condition:
    """The condition: True when sessions can be forked here, again and again.

    Args: findings: about the sandboxer's settings. Further warnings are in the message.
    """
    said = _sentence(found.detail, found.hint)
    if found.standing.form is None:
        return _condition("False", _camel(found.standing.value, "-"), said)
    by_weight = sorted(findings, key=lambda one: not _is_spoiling(one))
    message = "; ".join((*map(_told, by_weight), said))
    if by_weight and _is_spoiling(by_weight[0]):
        return _condition("False", _camel(by_weight[0].key, "_"), message)
    if any(one.key == _UNREAD for one in findings):
        return _condition("Unknown", "SettingsUnknown", message)
    return _condition("True", "UsableWithWarnings" if findings else "Usable", message)


def judge_part(found: Probe) -> PartState:
    """Of /readyz: settings that spoil forks leave an agent that can do its work."""
    return PartState(found.standing.form is not None, _sentence(found.detail, found.hint))


def _is_spoiling(one: Finding) -> bool:
    return one.level is Level.FAIL or (one.level is Level.WARN and one.key in _SPOILING)


def _told(one: Finding) -> str:
    return f"{one.key}: {_sentence(one.detail, one.hint)}"


def _sentence(detail: str, hint: str) -> str:
    return f"{detail} ({hint})" if hint else detail


def _camel(words: str, separator: str) -> str:
    return "".join(word.capitalize() for word in words.split(separator))


def _condition(status: str, reason: str, message: str) -> Condition:
    return Condition(type=CONDITION, status=status, reason=reason, message=message[:_MESSAGE_MAX])


def stamp_condition(wanted: Condition, node: JsonObject, now: datetime) -> JsonObject:
    """The condition to apply; the time of its last transition is that of the Node's own."""
    conditions = (node.get("status") or {}).get("conditions") or ()
    old: JsonObject = next((one for one in conditions if one.get("type") == CONDITION), {})
    stamp = f"{now:%Y-%m-%dT%H:%M:%SZ}"
    since = old.get("lastTransitionTime") if old.get("status") == wanted.status else None
    return {
        "type": wanted.type,
        "status": wanted.status,
        "reason": wanted.reason,
        "message": wanted.message,
        "lastHeartbeatTime": stamp,
        "lastTransitionTime": since or stamp,
    }


# -- telling --------------------------------------------------------------------------------------


class SandboxerCondition:
    """Keeps one condition, one label of a Node that a kubelet keeps. now: aware, in UTC."""

    def __init__(
        self,
        kube: KubeApi,
        settings: Kuasar,
        node_name: str,
        tracer: Tracer,
        now: Callable[[], datetime],
    ) -> None:
        self._kube = kube
        self._settings = settings
        self._admin = AdminSocket(settings.admin_socket)
        self._node_name = node_name
        self._tracer = tracer
        self._now = now
        self._part = PartState(False, "it was not asked yet")
        self._told: tuple[Condition, str] | None = None
        self._told_at: datetime | None = None

    def look(self) -> PartState:
        """As the last answer was."""
        return self._part

    async def refresh(self) -> None:
        """Look, and tell what changed, or that it is still so. Raises: as KubeApi."""
        settings = self._settings
        found = await probe(self._admin, settings.grpc_socket, deadline_s=PROBE_S)
        self._part = judge_part(found)
        findings = await asyncio.to_thread(find_warnings, settings.config_file, found.standing.form)
        told = (judge_sandboxer(found, findings), found.standing.value)
        now = self._now()
        if told == self._told and self._told_at and now - self._told_at < HEARTBEAT:
            return
        await self._tell(*told, now)
        self._told, self._told_at = told, now

    async def _tell(self, wanted: Condition, standing: str, now: datetime) -> None:
        """By apply: only what is ours is touched, whatever a kubelet writes meanwhile."""
        node = await self._kube.get(NODES, self._node_name)
        if (node["metadata"].get("labels") or {}).get(LABEL) != standing:
            await self._label(standing)
        await self._apply({"conditions": [stamp_condition(wanted, node, now)]})
        self._tracer.step(
            "node.sandboxer",
            node=self._node_name,
            standing=standing,
            status=wanted.status,
            reason=wanted.reason,
            message=wanted.message,
        )

    async def _label(self, value: str | None) -> None:
        """None takes it away (RFC 7386). A Node that is gone is not made anew by it."""
        await self._kube.merge(NODES, self._node_name, {"metadata": {"labels": {LABEL: value}}})

    async def _apply(self, status: JsonObject) -> None:
        body = {"metadata": {"name": self._node_name}, "status": status}
        await self._kube.apply(NODES, body, manager=_MANAGER, subresource="status", force=True)

    async def run(self) -> None:
        """Refresh for ever. Cancellation: closes what asks; leaves what was told."""
        while True:
            try:
                await self.refresh()
            except ControlPlaneError as exc:
                self._tracer.step("node.sandboxer.failed", node=self._node_name, error=str(exc))
            await asyncio.sleep(EVERY_S)

    async def withdraw(self) -> None:
        """Take both away: nobody looks any more. Failures are left to the heartbeat's age."""
        self._told = None
        try:
            await self._label(None)
            await self._apply({})
        except ControlPlaneError as exc:
            self._tracer.step("node.sandboxer.failed", node=self._node_name, error=str(exc))
