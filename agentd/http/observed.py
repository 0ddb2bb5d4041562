"""Offer what the daemon's parts are like just now, as gauges and as health."""

from __future__ import annotations

from agentd.engine.engine import Engine
from agentd.health import Health, PartState
from agentd.metrics import Metrics
from agentd.pager.watch import PagerWatch, summarise
from agentd.settings import Settings
from agentd.wire.api import TemplateState
from agentd.wire.pager import Stats


def make_health(
    settings: Settings, engine: Engine, pager: PagerWatch | None, monitor: str
) -> Health:
    """What has to be well before the daemon can do its work. monitor: its engine's name."""
    health = Health()

    def look_at_journal() -> PartState:
        problem = engine.journal_problem()
        return PartState(not problem, problem or "it is open")

    def look_at_monitor() -> PartState:
        if monitor == "none":
            return PartState(True, "there is none by design: a sandboxer runs the machines")
        engine.check_monitor()
        return PartState(True, f"{monitor} can be started")

    def look_at_pager() -> PartState:
        if pager is not None and pager.is_missed:
            return PartState(False, "it does not answer, and machines wait for it")
        if pager is None or pager.process is None:
            return PartState(True, "no machine of this node needs one")
        is_there = pager.latest is not None
        return PartState(is_there, "it answers" if is_there else "it does not answer")

    health.add("journal", look_at_journal)
    health.add("monitor", look_at_monitor)
    health.add("page_server", look_at_pager)
    if settings.node.enabled:
        health.add("cluster", lambda: PartState(False, "the API server was not reached yet"))
        if settings.kuasar.enabled:
            health.add("sandboxer", lambda: PartState(False, "it was not asked yet"))
    return health


def watch(metrics: Metrics, engine: Engine, pager: PagerWatch | None, health: Health) -> None:
    """Offer gauges of everything."""
    watch_engine(metrics, engine)
    watch_pager(metrics, pager)
    watch_health(metrics, health)


def watch_engine(metrics: Metrics, engine: Engine) -> None:
    """Offer gauges of the engine."""
    metrics.watch(
        "snapstart_sessions", "Live sessions.", lambda: float(len(engine.sessions.list()))
    )
    metrics.watch("snapstart_held_builds", "Held builds.", lambda: float(len(engine.held.list())))
    metrics.watch("snapstart_parked_forks", "Parked forks.", lambda: float(engine.parking.count))
    metrics.watch(
        "snapstart_reserved_bytes",
        "Memory promised to machines.",
        lambda: float(engine.machines.reserved_bytes),
    )
    metrics.watch(
        "snapstart_template_bytes",
        "Memory of loaded templates.",
        lambda: float(engine.templates.loaded_bytes),
    )
    metrics.watch(
        "snapstart_memory_budget_bytes",
        "Most that machines and templates may take together, admission.memory_bytes resolved.",
        lambda: float(engine.machines.limits.memory_bytes),
    )
    metrics.watch(
        "snapstart_failed_templates",
        "Templates that cannot be forked.",
        lambda: float(sum(t.state is TemplateState.FAILED for t in engine.templates.list())),
    )


def watch_pager(metrics: Metrics, pager: PagerWatch | None) -> None:
    """Offer gauges of the page server."""

    def latest() -> Stats | None:
        return None if pager is None else pager.latest

    metrics.watch(
        "snapstart_pager_up", "1 while a page server answers.", lambda: float(latest() is not None)
    )
    metrics.watch(
        "snapstart_pager_machines",
        "Machines that the page server serves.",
        lambda: float(summarise(latest()).machines),
    )
    metrics.watch(
        "snapstart_pager_covered_ratio",
        "Of the pages that their guests asked for, those that were there before.",
        lambda: summarise(latest()).covered,
    )
    metrics.watch(
        "snapstart_pager_max_stall_seconds",
        "The longest that one of them waited for a page.",
        lambda: summarise(latest()).max_stall_s,
    )


def watch_health(metrics: Metrics, health: Health) -> None:
    """Offer what `/readyz` tells as gauges."""
    text = "1 for each part of the daemon that is ready, as /readyz tells."
    metrics.watch_each("snapstart_part_ready", text, "part", health.values)
