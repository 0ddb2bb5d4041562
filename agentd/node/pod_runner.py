"""Run the machine of one Pod, from its start to its end.

One task for each Pod UID. A machine's id is derived from the UID and the number of the restart, and
the engine refuses a second machine of one id; sessions carry the UID in the journal, so that a
successor of this daemon finds them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from agentd.engine.held import HeldBuild, HeldState
from agentd.engine.session import EndReason, Session
from agentd.engine.session_orders import OwnSession
from agentd.engine.starter import ImageSource
from agentd.errors import SnapStartError
from agentd.node.failures import choose_waiting_reason
from agentd.node.forwarders import POD_IP, PORTS
from agentd.node.pod_env import Environment
from agentd.node.pod_machines import find_build, find_session
from agentd.node.pod_memory import CAPTURED, derive_machine_id, remember, was_steady
from agentd.node.pod_origin import Origin, tell_origin
from agentd.node.pod_restore import Cold, Fork, choose_fallback
from agentd.node.pod_spec import PodPlan, Refusal
from agentd.node.pod_start import NoImageError, PodHost, PodStart
from agentd.node.pod_status import (
    PodView,
    Stage,
    Termination,
    choose_backoff_s,
    choose_restart,
)
from agentd.node.pod_types import Pod
from agentd.providers.local import POD_UID
from agentd.tracing import enter
from agentd.wire.manifest import Machine
from controlplane.api import names
from controlplane.errors import ControlPlaneError

KILLED: Final = 137  # 128 + SIGKILL, as a container runtime reports it
_SEALING_S: Final = 120.0
_AWAY: Final = "its machine ended while agentd was away"
_LOOK_S: Final = 10.0  # to an image that may come


class PodRunner:
    """Owns what runs for one Pod; `end` ends all of it, `leave` leaves it to a successor.

    Args: changed: called when `view` or `refusal` are others.
    """

    def __init__(self, host: PodHost, pod: Pod, plan: PodPlan, changed: Callable[[], None]) -> None:
        self._host = host
        self._pod = pod
        self._plan = plan
        self._changed = changed
        self._start = PodStart(host, pod, plan)
        self._task: asyncio.Task[None] | None = None
        self._session: Session | None = None
        self._build: HeldBuild | None = None
        self.uid = pod.metadata.uid
        self.refusal: Refusal | None = None
        self.origin = Origin()
        self.view = PodView(Stage.WAITING, host_ip=host.host_ip)

    def __repr__(self) -> str:
        return f"<PodRunner {self._pod.metadata.name} {self.view.stage.value}>"

    def begin(self) -> None:
        """Start running."""
        name = f"pod:{self._pod.metadata.namespace}/{self._pod.metadata.name}"
        self._task = asyncio.create_task(self._run(), name=name)

    async def leave(self) -> None:
        """Stop looking after it; a session runs on, and its address is served. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def end(self) -> None:
        """End its machine, give its address back. Idempotent."""
        await self.leave()
        session = self._session or find_session(self._host.engine, self.uid)
        build = self._build or find_build(self._host.engine, self.uid)
        if session is not None:
            with contextlib.suppress(SnapStartError):
                await self._host.engine.sessions.end(session.id, EndReason.DELETED)
        if build is not None:
            await self._host.engine.held.drop(build.id, "deleted")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SEALING_S):
                    await build.over.wait()
        await self._host.forwarders.drop(self.uid)
        if address := self.view.pod_ip:
            await self._host.addresses.remove(address)
            self._host.addresses.release(address)

    # -- the life of a Pod --------------------------------------------------------------------

    async def _run(self) -> None:
        enter(self._pod.metadata.annotation(names.TRACEPARENT))
        try:
            await self._live()
        except asyncio.CancelledError:
            raise
        except Exception as exc:
            self._host.tracer.step("pod.failed", pod=self._pod.metadata.name, error=repr(exc))
            self._show(stage=Stage.ENDED, ended=self._termination(f"a defect: {exc!r}"))

    async def _live(self) -> None:
        self.view = replace(self.view, **remember(self._pod))  # type: ignore[arg-type]
        if (session := find_session(self._host.engine, self.uid)) is not None:
            await self._adopt(session)
        elif (build := find_build(self._host.engine, self.uid)) is not None:
            await self._adopt_build(build)
        elif not await self._goes_on():
            return
        while True:
            if self._session is None and self._build is None:
                self._show(stage=Stage.STARTING, reason="ContainerCreating", message="")
                await self._retry(self._bring_up)
            if self.refusal is not None:
                return
            why = await self._wait_end()
            if self.view.stage is Stage.CAPTURED or not await self._follow(why):
                return

    async def _goes_on(self) -> bool:
        """A Pod whose machine is not there any more: whether it gets another one."""
        if self.view.stage is Stage.CAPTURED:
            return False
        return not self.view.machine_id or await self._follow(_AWAY)

    async def _retry(self, work: Callable[[], Awaitable[None]]) -> None:
        """Try until it works: what keeps a Pod from its machine may pass."""
        failures = 0
        while True:
            try:
                await work()
                return
            except NoImageError as exc:
                reason, message, delay_s = "ErrImageNeverPull", str(exc), _LOOK_S
            except (SnapStartError, ControlPlaneError, TimeoutError) as exc:
                reason, message = choose_waiting_reason(exc), str(exc)
                delay_s = choose_backoff_s(failures)
            failures += 1
            self._host.tracer.step("pod.start.failed", pod=self._pod.metadata.name, error=message)
            self._show(stage=Stage.WAITING, reason=reason, message=message)
            await asyncio.sleep(delay_s)

    async def _follow(self, why: str) -> bool:
        """Note the end of a machine. Returns: True if it is time for another one."""
        self._session = None
        is_build, self._build = self._build is not None or self._plan.has_gate, None
        ended = self._termination(why)
        if is_build or not choose_restart(self._plan.restart_policy, ended.exit_code):
            self._show(stage=Stage.ENDED, ended=ended)
            return False
        delay_s = choose_backoff_s(0 if was_steady(ended) else self.view.restarts)
        self._show(
            stage=Stage.WAITING,
            reason="CrashLoopBackOff",
            message=f"back-off {delay_s:g} s: {why}",
            ended=ended,
        )
        await asyncio.sleep(delay_s)
        self._show(restarts=self.view.restarts + 1)
        return True

    async def _bring_up(self) -> None:
        self.refusal = await self._start.refuse()
        if self.refusal is not None:
            self._changed()
        elif await self._start.is_build():
            await self._begin_build()
        else:
            await self._begin_session()

    def _refuse(self, refusal: Refusal) -> None:
        self.refusal = refusal
        self._changed()

    # -- builds -------------------------------------------------------------------------------

    async def _begin_build(self) -> None:
        image = await self._start.image()
        if isinstance(image, Refusal):
            self._refuse(image)
            return
        await self._take_address("", is_served=False)
        machine_id = derive_machine_id(self.uid, self.view.restarts)
        location = str(image.directory)
        self._build = await self._host.engine.held.hold(
            machine_id, location, self._shape(), {POD_UID: self.uid}
        )
        self._show_ready(machine_id, image.key)

    async def _adopt_build(self, build: HeldBuild) -> None:
        self._build = build
        self.view = replace(self.view, stage=Stage.READY, machine_id=build.id)
        await self._retry(lambda: self._take_address("", is_served=False))
        self._show(stage=Stage.READY, reason="", message="")

    # -- sessions -----------------------------------------------------------------------------

    async def _adopt(self, session: Session) -> None:
        """Nothing is shown before all of it is known: a Pod that runs is never said to wait."""
        facts, labels = session.facts, session.facts.labels
        self._session = session
        self.origin = Origin(labels.get("started-from", ""), labels.get("reason", ""))
        ready = self._ready(session.id, labels.get("image", ""), facts.created_at_s)
        self.view = replace(ready, restarts=int(labels.get("restarts", "0")))
        await self._retry(lambda: self._take_address(labels.get(POD_IP, "")))
        self._show_ready(session.id, labels.get("image", ""), facts.created_at_s)

    async def _begin_session(self) -> None:
        await self._take_address("")
        env = await self._start.environment(self.view.pod_ip)
        if isinstance(env, Refusal):
            self._refuse(env)
            return
        source = await self._start.source()
        if isinstance(source, Fork):
            try:
                await self._begin_fork(source, env)
                return
            except SnapStartError as exc:
                fallback = choose_fallback(source.key, exc)
                if fallback is None:
                    raise
                source = fallback
        await self._boot(source, env)

    async def _begin_fork(self, fork: Fork, env: Environment) -> None:
        template = self._host.engine.templates.require_ready(fork.key)
        image_id = template.image.rpartition("/")[2]
        origin = Origin(names.FROM_SNAPSHOT)
        wish = self._wish(
            fork.key, env, origin, image_id, self._host.engine.settings.deadlines.fork_s
        )
        self._session = await self._host.engine.sessions.start(wish)
        self._tell_origin(origin, f"restored from snapshot {fork.key}")
        self._show_ready(wish.id, image_id, self._session.facts.created_at_s)

    async def _boot(self, cold: Cold, env: Environment) -> None:
        image = await self._start.image()
        if isinstance(image, Refusal):
            self._refuse(image)
            return
        source = ImageSource(str(image.directory), self._shape())
        origin = Origin(names.FROM_IMAGE, cold.reason, cold.message)
        wish = self._wish(
            source, env, origin, image.key, self._host.engine.settings.deadlines.cold_s
        )
        self._session = await self._host.engine.sessions.start(wish)
        self._tell_origin(origin, f"started cold ({cold.reason}): {cold.message}")
        self._show_ready(wish.id, image.key, self._session.facts.created_at_s)

    def _wish(
        self,
        source: str | ImageSource,
        env: Environment,
        origin: Origin,
        image_id: str,
        deadline_s: float,
    ) -> OwnSession:
        meta = self._pod.metadata
        labels = {
            POD_UID: self.uid,
            "pod": f"{meta.namespace}/{meta.name}",
            "cluster": self._host.cluster,
            POD_IP: self.view.pod_ip,
            "restarts": str(self.view.restarts),
            "started-from": origin.started_from,
            "reason": origin.reason,
            "image": image_id,
            PORTS: ",".join(map(str, self._plan.ports)),
        }
        return OwnSession(
            id=derive_machine_id(self.uid, self.view.restarts),
            source=source,
            deadline_s=deadline_s,
            hostname=self._plan.hostname,
            env=env.variables,
            auth_key=env.auth_key,
            metadata={"namespace": meta.namespace, "pod": meta.name, "uid": self.uid},
            labels=labels,
        )

    def _shape(self) -> Machine:
        return Machine(self._plan.memory_mib, self._plan.vcpus)

    async def _take_address(self, wanted: str, *, is_served: bool = True) -> None:
        before = str(self._pod.status.get("podIP") or "")
        address = self.view.pod_ip or self._host.addresses.take(wanted or before)
        self._show(pod_ip=address)
        if is_served:
            await self._host.forwarders.serve(self.uid, address, self._plan.ports)
        else:
            await self._host.addresses.add(address)

    # -- the end of a machine -----------------------------------------------------------------

    async def _wait_end(self) -> str:
        if self._build is not None:
            return await self._wait_build(self._build)
        assert self._session is not None
        return await self._host.engine.sessions.wait_ended(self._session)

    async def _wait_build(self, build: HeldBuild) -> str:
        await build.over.wait()
        if build.state is HeldState.SEALED:
            ended = replace(self._termination(""), exit_code=0, reason=CAPTURED)
            self._show(stage=Stage.CAPTURED, ended=ended)
        return str(build.error or "its machine was ended")

    def _termination(self, message: str) -> Termination:
        view = self.view
        now = self._host.now()
        return Termination(
            view.machine_id, KILLED, "Error", message, view.started_at, now.replace(microsecond=0)
        )

    # -- what is seen -------------------------------------------------------------------------

    def _tell_origin(self, origin: Origin, message: str) -> None:
        self.origin = origin
        tell_origin(self._host, self._pod, origin, message)

    def _ready(self, machine_id: str, image_id: str, at_s: float | None = None) -> PodView:
        started = self._host.now() if at_s is None else datetime.fromtimestamp(at_s, UTC)
        return replace(
            self.view,
            stage=Stage.READY,
            machine_id=machine_id,
            image_id=f"snapstart.local/image@sha256:{image_id}" if image_id else "",
            started_at=started,
            reason="",
            message="",
        )

    def _show_ready(self, machine_id: str, image_id: str, at_s: float | None = None) -> None:
        self.view = self._ready(machine_id, image_id, at_s)
        self._changed()

    def _show(self, **changes: object) -> None:
        self.view = replace(self.view, **changes)  # type: ignore[arg-type]
        self._changed()
