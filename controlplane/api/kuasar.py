"""Decide what Kuasar's sandboxers are told by annotations: of builds, of sessions.

A session says which template it wants, never which type of snapshot: with a type one form of
sandboxer fails a Pod whose template is missing, without it both start it cold. Nor does it say a
template's id or a Pod's UID: what these name is restored, or the Pod fails.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from controlplane.api import names
from controlplane.api.types import SnapshotClass
from controlplane.api.validation import Problem

# The provider's name in classes, and the one that sandboxers call themselves by.
PROVIDERS: Final = ("snapstart.kuasar.io", "kuasar-vmm-snapshot")
READY_VERSION: Final = "1"

# What both have to say: a sandboxer reads them of the build, and of the session again.
_REPEATED: Final[tuple[str, ...]] = (names.KUASAR_READY_SOCKET, names.KUASAR_READY_CONTAINERS)
# As guests take one: docs/guest-protocol.md, section 4.1.
_TASK_ID: Final = re.compile(r"[\x21-\x7e]{1,253}")


@dataclass(frozen=True)
class SessionIdentity:
    """Whose Pod it will be, as far as that is known before it is made; empty if it is not.

    pod: its name. session_id: AgentCube's.
    """

    namespace: str
    pod: str = ""
    session_id: str = ""

    @property
    def task_id(self) -> str:
        """What tells this session from others, empty if nothing does."""
        found = self.session_id or self.pod
        return found if _TASK_ID.fullmatch(found) else ""


class _Context(msgspec.Struct, frozen=True, kw_only=True):
    """What a guest is told with PREPARE, as agentd tells it to machines of its own."""

    session_id: str
    metadata: Mapping[str, str]


def is_kuasar(snapshot_class: SnapshotClass) -> bool:
    """Its snapshots are restored by Kuasar: its builds say what only such a one asks for.

    The provider's name does not matter: operators choose it.
    """
    return names.KUASAR_READY_VERSION in (snapshot_class.spec.build_pod_annotations or {})


def session_annotations(
    snapshot_class: SnapshotClass, key: str, identity: SessionIdentity
) -> dict[str, str]:
    """What a session's Pod carries beside the restore intent; nothing if Kuasar has no part in it.

    With a task id the guest is told whose it is before it starts (PREPARE); without one it starts
    at once. Task and context have no say in whether, or from what, a Pod is restored.
    """
    if not is_kuasar(snapshot_class):
        return {}
    build = snapshot_class.spec.build_pod_annotations or {}
    repeated = {name: build[name] for name in _REPEATED if name in build}
    return {names.KUASAR_TEMPLATE_KEY: key, **repeated, **_task(identity)}


def validate_kuasar_class(snapshot_class: SnapshotClass) -> list[Problem]:
    """What keeps a class's builds from being snapshotted by Kuasar, or makes them restores."""
    field = "spec.buildPodAnnotations"
    spec = snapshot_class.spec
    found = spec.build_pod_annotations or {}
    problems = [
        Problem(f"{field}[{name}]", "a build that carries it is restored, not built; remove it")
        for name in names.PROVIDER_SELECTORS
        if name in found
    ]
    is_meant = spec.provider_name in PROVIDERS or is_kuasar(snapshot_class)
    if is_meant and found.get(names.KUASAR_READY_VERSION) != READY_VERSION:
        advice = f'Kuasar takes a snapshot only of a Pod where it is "{READY_VERSION}"; set it'
        problems.append(Problem(f"{field}[{names.KUASAR_READY_VERSION}]", advice))
    return problems


def _task(identity: SessionIdentity) -> dict[str, str]:
    """One text of JSON: Kubernetes refuses a key for each variable, which has two slashes."""
    task_id = identity.task_id
    if not task_id:
        return {}
    told = {"namespace": identity.namespace, "pod": identity.pod}
    context = _Context(
        session_id=task_id, metadata={name: text for name, text in told.items() if text}
    )
    return {
        names.KUASAR_TASK_ID: task_id,
        names.KUASAR_TASK_CONTEXT: msgspec.json.encode(context).decode(),
    }
