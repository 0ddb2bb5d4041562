"""Note when what a cluster shows becomes different.

A thread of its own follows the objects with the client that the product uses, so that a moment is
known to milliseconds, and a restart of the API server is no gap.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from agentd.errors import ErrorCode, TransientError
from agentd.node.pod_types import Pod
from controlplane.api.core import Node, Sandbox
from controlplane.api.types import SandboxSnapshot, SandboxSnapshotStatus, SandboxSnapshotTask
from controlplane.kube.client import open_kube
from controlplane.kube.connect import KubeSettings
from controlplane.kube.informer import Informer
from controlplane.kube.resource import NODES, PODS, SNAPSHOTS, TASKS, sandboxes

T = TypeVar("T")
_SYNC_S = 30.0
Key = tuple[str, str]


@dataclass(frozen=True)
class StatusAt:
    """A status of a snapshot, and when it was seen first: seconds, monotonic."""

    at_s: float
    name: str
    status: SandboxSnapshotStatus


class Observer:
    """What there is now, by namespace and name; when Sandboxes were seen first, and first Ready.

    Everything is read under `changed`, which is notified whenever something is another.
    """

    def __init__(
        self,
        kubeconfig: Path,
        sandbox_version: str,
        *,
        check: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args: check: raises when waiting has lost its sense, as when a server died."""
        self._settings = KubeSettings(kubeconfig=str(kubeconfig), user_agent="snapstart-demo")
        self._version = sandbox_version
        self._check = check
        self._clock = clock
        self._stop: Callable[[], None] = lambda: None
        self._failure: BaseException | None = None
        self._synced = threading.Event()
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)
        self.changed = threading.Condition()
        self.snapshots: dict[Key, SandboxSnapshot] = {}
        self.sandboxes: dict[Key, Sandbox] = {}
        self.pods: dict[Key, Pod] = {}
        self.tasks: dict[Key, SandboxSnapshotTask] = {}
        self.nodes: dict[Key, Node] = {}
        self.seen_at: dict[str, float] = {}
        self.ready_at: dict[str, float] = {}
        self.history: list[StatusAt] = []

    def __enter__(self) -> Observer:
        """Follow; returns when everything there is has been seen. Raises: TransientError."""
        self._thread.start()
        if not self._synced.wait(_SYNC_S) or self._failure is not None:
            self.close()
            raise TransientError(
                ErrorCode.CLUSTER_UNREACHABLE, f"following the cluster: {self._failure!r}"
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop following; what was seen stays."""
        self._stop()
        self._thread.join()

    def wait(self, what: str, find: Callable[[], T | None], *, deadline_s: float) -> T:
        """Wait until `find`, called under `changed`, finds something that is true.

        Raises: TransientError(DEADLINE_EXCEEDED) with `what`; what `check` raises.
        """
        give_up = self._clock() + deadline_s
        while True:
            with self.changed:
                found = find()
                if found:
                    return found
                left_s = give_up - self._clock()
                if left_s <= 0:
                    raise TransientError(
                        ErrorCode.DEADLINE_EXCEEDED, f"after {deadline_s:.0f} s still not: {what}"
                    )
                self.changed.wait(min(left_s, 1.0))
            self._check()

    def pod_of(self, sandbox: Sandbox) -> Pod | None:
        """The Pod that a Sandbox controls."""
        for pod in self.pods.values():
            owner = pod.metadata.controller
            if owner is not None and owner.uid == sandbox.metadata.uid:
                return pod
        return None

    def _run(self) -> None:
        try:
            asyncio.run(self._follow())
        except Exception as exc:
            self._failure = exc
        finally:
            self._synced.set()

    async def _follow(self) -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        self._stop = lambda: _call(loop, stop.set)
        async with AsyncExitStack() as stack:
            kube = await stack.enter_async_context(await open_kube(self._settings, environ={}))
            informers: list[Informer[Any]] = [
                self._informer(kube, SNAPSHOTS, SandboxSnapshot, self.snapshots),
                self._informer(kube, sandboxes(self._version), Sandbox, self.sandboxes),
                self._informer(kube, PODS, Pod, self.pods),
                self._informer(kube, TASKS, SandboxSnapshotTask, self.tasks),
                self._informer(kube, NODES, Node, self.nodes),
            ]
            for informer in informers:
                informer.start()
                stack.push_async_callback(informer.stop)
            for informer in informers:
                await informer.wait_synced()
            self._synced.set()
            await stop.wait()

    def _informer(
        self, kube: Any, resource: Any, type_: type[Any], kept: dict[Key, Any]
    ) -> Informer[Any]:
        informer = Informer(kube, resource, type_)

        def handler(old: Any, new: Any) -> None:
            meta = (new or old).metadata
            with self.changed:
                if new is None:
                    kept.pop((meta.namespace, meta.name), None)
                else:
                    kept[(meta.namespace, meta.name)] = new
                    self._note(new)
                self.changed.notify_all()

        informer.add_handler(handler)
        return informer

    def _note(self, new: object) -> None:
        if isinstance(new, Sandbox):
            self.seen_at.setdefault(new.metadata.uid, self._clock())
            if new.is_ready:
                self.ready_at.setdefault(new.metadata.uid, self._clock())
        if isinstance(new, SandboxSnapshot) and new.status is not None:
            last = next((o for o in reversed(self.history) if o.name == new.metadata.name), None)
            if last is None or last.status != new.status:
                self.history.append(StatusAt(self._clock(), new.metadata.name, new.status))


def _call(loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
    """In a loop that may have ended."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(work)
