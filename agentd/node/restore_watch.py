"""Establish of every Pod of this node that was to be restored whether it was.

What is found is written on the Pod first, then counted and told: its annotations are the memory
across restarts. A write whose answer was lost is told once the Pod is seen to carry it. A Pod that
started cold is looked at again, for it may wait for an injection that nobody will make.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from agentd.engine.trace import Tracer
from agentd.errors import SnapStartError
from agentd.kuasar.client import KuasarAccess, KuasarTemplate
from agentd.node.restore_evidence import Result, Verdict, explain_cold, next_question_s
from agentd.node.restore_listing import ROUND_S, SandboxListing
from agentd.node.restore_pods import SessionPod
from agentd.node.restore_record import Recorder, Report, report_waiting
from agentd.node.stuck_pod import Gate, Waiting, judge_waiting, look_at_guest, wait_s
from agentd.node.stuck_replace import Replacer
from agentd.node.task_look import Place
from agentd.settings import Kuasar
from controlplane.api import names
from controlplane.kube.api import KubeApi
from controlplane.kube.informer import Informer
from controlplane.kube.recorder import EventRecorder
from controlplane.kube.resource import PODS
from controlplane.kube.workers import WorkQueue, run_workers

Key = tuple[str, str]
# Between two looks at a guest that waits, or may.
RECHECK_S: Final = 60.0
_WORKERS: Final = 8


@dataclass
class _Note:
    """What is known of a Pod beside its annotations; times by the clock.

    report: what is being written. asked_at_s: when its start was first asked about, questions: how
    often. look_at_s: its guest is left alone until then. is_suspected: told to be not Ready.
    is_clear: it does not wait.
    """

    uid: str
    report: Report | None = None
    asked_at_s: float | None = None
    questions: int = 0
    look_at_s: float = 0.0
    is_suspected: bool = False
    is_clear: bool = False


class RestoreWatch:
    """Owns an informer of this node's Pods, which `close` ends.

    Args: access: to the node's sandboxer. now: aware, in UTC. clock: seconds, monotonic.
    """

    def __init__(
        self,
        kube: KubeApi,
        access: KuasarAccess,
        settings: Kuasar,
        place: Place,
        events: EventRecorder,
        tracer: Tracer,
        now: Callable[[], datetime],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._access = access
        self._settings = settings
        self._now = now
        self._clock = clock
        self._listing = SandboxListing(access, clock)
        self._recorder = Recorder(kube, events, tracer, place.node_name)
        self._replacer = Replacer(kube, place.sandboxes, access, self._listing, events, tracer)
        self._notes: dict[Key, _Note] = {}
        self._queue: WorkQueue[Key] = WorkQueue()
        fields = f"spec.nodeName={place.node_name}"
        self._informer = Informer(kube, PODS, SessionPod, fields=fields)
        self._informer.add_handler(self._on_change)

    def start(self) -> None:
        """Begin to follow the Pods; `close` ends it."""
        self._informer.start()

    async def run(self) -> None:
        """Look after the Pods for ever, once started. Cancellation: ends what is under way."""
        await run_workers(self._queue, self.reconcile, _WORKERS, name="restores")

    async def close(self) -> None:
        """End following them. Safe to repeat."""
        await self._informer.stop()

    def _on_change(self, old: SessionPod | None, new: SessionPod | None) -> None:
        pod = new or old
        assert pod is not None
        if pod.restore_key:
            self._queue.add((pod.metadata.namespace, pod.metadata.name))

    async def reconcile(self, key: Key) -> float | None:
        """Look at one Pod. Returns: seconds until the next look, None: when it changes.

        Raises: ControlPlaneError; the look is repeated then.
        """
        namespace, name = key
        pod = self._informer.get(name, namespace)
        if pod is None or not pod.is_running or not pod.restore_key:
            self._notes.pop(key, None)
            return None
        note = self._notes.get(key)
        if note is None or note.uid != pod.metadata.uid:
            note = self._notes[key] = _Note(pod.metadata.uid)
        self._settle(pod, note)
        if not pod.started_from:
            return await self._establish(pod, note)
        if pod.started_from == names.FROM_IMAGE:
            return await self._look_after(pod, note)
        del self._notes[key]
        return None

    async def _record(self, pod: SessionPod, note: _Note, report: Report) -> None:
        note.report = report
        await self._recorder.write(pod, report)
        note.report = None
        self._recorder.tell(pod, report)

    def _settle(self, pod: SessionPod, note: _Note) -> None:
        """Tell what was written although the answer was lost."""
        if note.report is not None and note.report.is_on(pod):
            report, note.report = note.report, None
            self._recorder.tell(pod, report)

    # -- how it started -----------------------------------------------------------------------

    async def _establish(self, pod: SessionPod, note: _Note) -> float | None:
        report = note.report
        if report is None:
            verdict = await self._listing.judge(pod.metadata.uid)
            if verdict is None:
                return ROUND_S
            if verdict.result is Result.UNKNOWN and (delay_s := self._ask_again_s(note)):
                return delay_s
            report = Report(await self._explained(pod, verdict))
        await self._record(pod, note, report)
        return None

    def _ask_again_s(self, note: _Note) -> float | None:
        now_s = self._clock()
        if note.asked_at_s is None:
            note.asked_at_s = now_s
        note.questions += 1
        return next_question_s(now_s - note.asked_at_s, note.questions)

    async def _explained(self, pod: SessionPod, verdict: Verdict) -> Verdict:
        if verdict.result is not Result.COLD_START:
            return verdict
        return explain_cold(pod.restore_key, await self._templates(pod.restore_key))

    async def _templates(self, key: str) -> list[KuasarTemplate] | SnapStartError:
        try:
            return await (await self._access.client()).find(key)
        except SnapStartError as exc:
            return exc

    # -- whether it waits ---------------------------------------------------------------------

    async def _look_after(self, pod: SessionPod, note: _Note) -> float | None:
        left_s = wait_s(pod, self._now(), self._settings.stuck_s)
        if note.is_clear or left_s is None:
            return None
        left_s = max(left_s, note.look_at_s - self._clock())
        if left_s > 0:
            return left_s
        gate = await look_at_guest(*pod.guest) if pod.guest else Gate.UNTOLD
        match judge_waiting(gate, is_ready=pod.is_ready):
            case Waiting.NEVER:
                note.is_clear = True
                return None
            case Waiting.SUSPECTED:
                self._suspect(pod, note)
            case Waiting.CERTAIN:
                await self._handle_stuck(pod, note)
        note.look_at_s = self._clock() + RECHECK_S
        return RECHECK_S

    def _suspect(self, pod: SessionPod, note: _Note) -> None:
        """Told once by us; it may be slow, so nothing is written on it."""
        if not note.is_suspected:
            note.is_suspected = True
            stuck_s = self._settings.stuck_s
            self._recorder.tell(pod, report_waiting(pod, Waiting.SUSPECTED, stuck_s))

    async def _handle_stuck(self, pod: SessionPod, note: _Note) -> None:
        report = report_waiting(pod, Waiting.CERTAIN, self._settings.stuck_s)
        if not report.is_on(pod):
            await self._record(pod, note, report)
        if self._settings.replace_stuck:
            await self._replacer.replace(pod)
