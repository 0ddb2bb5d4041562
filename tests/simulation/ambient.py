"""Put the simulated clock, the simulated chance where production code takes them by default."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from random import Random
from types import SimpleNamespace
from typing import Any, ClassVar, Final
from unittest import mock

import structlog

from controlplane.kube.informer import Informer
from controlplane.kube.workers import WorkQueue
from controlplane.snapshots import controller, plan, watching
from controlplane.snapshots.observed import Observed
from controlplane.snapshots.steps import Plan

from .loop import SimLoop

_DEFAULTS: Final = (Informer.__init__, WorkQueue.__init__)
# A look at agents' Leases although none is known to run out: of no use once a day is simulated.
_LEASE_LOOK_S: Final = 120.0


@contextmanager
def simulated(
    loop: SimLoop, random: Random, planned: Callable[[Observed, Plan], None]
) -> Iterator[None]:
    """Inside, production code runs on this loop, logs nothing, draws from this source of chance.

    planned: told of every plan that the snapshot controller makes.
    """

    def plan_snapshot(seen: Observed, now: datetime) -> Plan:
        made = plan.plan_snapshot(seen, now)
        planned(seen, made)
        return made

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(controller, "plan_snapshot", plan_snapshot))
        for function in _DEFAULTS:
            known: dict[str, Any] = dict(getattr(function, "__kwdefaults__", None) or {})
            changes = {"clock": loop.time, "random": random}
            wanted = {name: value for name, value in changes.items() if name in known}
            stack.enter_context(mock.patch.dict(function.__kwdefaults__, wanted))
        time = SimpleNamespace(monotonic=loop.time)
        if hasattr(watching, "time"):
            stack.enter_context(mock.patch.object(watching, "time", time))
        if hasattr(watching, "_IDLE_S"):
            stack.enter_context(mock.patch.object(watching, "_IDLE_S", _LEASE_LOOK_S))
        stack.enter_context(mock.patch.object(controller, "_WORKERS", 2))
        stack.enter_context(_silence(loop.errors))
        stack.enter_context(_running(loop))
        stack.enter_context(_without_collection())
        stack.enter_context(_without_last_words())
        yield


class _Mute:
    """A logger that keeps errors: production code logs one only for a defect of its own."""

    errors: ClassVar[list[str]] = []

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def error(self, event: str, **details: Any) -> None:
        self.errors.append(f"{event} {details}")

    exception = error
    critical = error

    def __getattr__(self, _: str) -> Callable[..., None]:
        return _ignore


def _ignore(*_: Any, **__: Any) -> None:
    pass


@contextmanager
def _silence(errors: list[str]) -> Iterator[None]:
    known = structlog.get_config()
    mute = type("_Mute", (_Mute,), {"errors": errors})
    structlog.configure(wrapper_class=mute, cache_logger_on_first_use=False)
    try:
        yield
    finally:
        structlog.configure(**known)


@contextmanager
def _running(loop: SimLoop) -> Iterator[None]:
    asyncio._set_running_loop(loop)
    try:
        yield
    finally:
        loop.close()
        asyncio._set_running_loop(None)


@contextmanager
def _without_collection() -> Iterator[None]:
    """When rubbish is collected must not depend on what ran before."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def _without_last_words() -> Iterator[None]:
    """What a dead process left half-done is dropped, not unwound."""
    known = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(firstiter=_ignore, finalizer=_ignore)
    try:
        yield
    finally:
        sys.set_asyncgen_hooks(*known)
