"""Say what an agent's parts share while it works with one API server."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from agentd.node.task_look import Place
from controlplane.kube.api import KubeApi
from controlplane.kube.recorder import EventRecorder

Job = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class Work:
    """The work on one connection to a cluster.

    down: what ends with it. jobs: what runs with it, for ever, by name.
    """

    kube: KubeApi
    place: Place
    events: EventRecorder
    down: AsyncExitStack
    jobs: dict[str, Job] = field(default_factory=dict)
