"""The `snapctl top` command: what every session uses, live."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import click

from agentd.cli.settings import Settings, common_options, pass_settings
from agentd.cli.tables import Table, age, draw, is_terminal, mib, new_console, span
from agentd.client import calls
from agentd.client.transport import Transport
from agentd.wire import api
from agentd.wire.pager import MachineStats, Stats

_COLUMNS: Final = (
    *("ID", "TEMPLATE", "MODE", "STATE", "AGE", "IDLE"),
    *("PSS MIB", "PRIVATE MIB", "CPU S"),
)
# Only where a page server serves machines.
_PAGING: Final = ("FAULTS", "PREFETCHED", "COVERED", "STALLS")


@dataclass(frozen=True)
class View:
    """What the daemon said at one moment. pager: None where no page server answers."""

    status: api.Status
    sessions: list[api.Session]
    usage: list[api.Usage]
    pager: Stats | None


@click.command(epilog="\b\nExample:\n  snapctl top --interval 0.5\n  snapctl top --once\n")
@click.option("--once", is_flag=True, help="Print once; so it is when stdout is no terminal.")
@click.option(
    "--interval", type=click.FloatRange(min=0.1), default=2.0, show_default=True, help="Seconds."
)
@common_options
@pass_settings
def top(settings: Settings, once: bool, interval: float) -> None:
    """Show the sessions and the memory they use; Ctrl-C ends it.

    Where a page server serves machines: FAULTS are pages that guests had to wait for, PREFETCHED
    those installed unasked, COVERED the share of what guests asked for that was there, STALLS
    faults of more than 10 ms.
    """
    with settings.transport() as transport:
        if once or settings.as_json or not is_terminal(sys.stdout):
            view = _look(transport)
            if not settings.as_json:
                click.echo(_headline(view))
            settings.show(view, lambda: _table(view, datetime.now(UTC)))
        else:
            _watch(transport, interval)


def _look(transport: Transport) -> View:
    used = transport.send(calls.usage())
    return View(
        transport.send(calls.status()),
        transport.send(calls.list_sessions()).sessions,
        used.usage,
        used.pager,
    )


def _watch(transport: Transport, interval_s: float) -> None:
    from rich.console import Group
    from rich.live import Live

    def picture() -> Group:
        view = _look(transport)
        return Group(_headline(view), draw(_table(view, datetime.now(UTC))))

    console = new_console(sys.stdout)
    with suppress(KeyboardInterrupt), Live(picture(), console=console, screen=True) as live:
        while True:
            time.sleep(interval_s)
            live.update(picture(), refresh=True)


def _headline(view: View) -> str:
    status = view.status
    return (
        f"agentd {status.version}  pid {status.pid}  up {span(status.uptime_s)}  "
        f"{status.engine} {status.engine_version} {status.accel}  rss {mib(status.rss_bytes)} MiB  "
        f"templates {status.templates}  sessions {status.sessions}"
    )


def _table(view: View, now: datetime) -> Table:
    used = {one.session: one for one in view.usage}
    rows = {one.id: _row(one, used.get(one.id), now) for one in view.sessions}
    columns: tuple[str, ...] = _COLUMNS
    if view.pager is not None and view.pager.machines:
        paged = {one.vm: one for one in view.pager.machines}
        others = {vm: _row_of_other(one) for vm, one in paged.items() if vm not in rows}
        rows = {vm: (*row, *_paging(paged.get(vm))) for vm, row in {**rows, **others}.items()}
        columns = (*_COLUMNS, *_PAGING)
    numeric = frozenset(columns[4:])
    return Table(columns, list(rows.values()), numeric=numeric, empty="no sessions")


def _row(one: api.Session, used: api.Usage | None, now: datetime) -> tuple[str, ...]:
    return (
        one.id,
        one.template,
        one.mode.value,
        one.state.value,
        age(one.created_at, now),
        age(one.last_used_at, now),
        mib(used.pss_bytes) if used else "-",
        mib(used.private_bytes) if used else "-",
        f"{used.cpu_s:.1f}" if used else "-",
    )


def _row_of_other(one: MachineStats) -> tuple[str, ...]:
    """A machine that is no session of this daemon, such as a sandboxer's."""
    unknown = ("-",) * (len(_COLUMNS) - 4)
    return (one.vm, "-", one.protocol, one.state, *unknown)


def _paging(one: MachineStats | None) -> tuple[str, ...]:
    if one is None:
        return ("-",) * len(_PAGING)
    covered = "-" if one.covered is None else f"{one.covered:.1%}"
    return str(one.faults), str(one.prefetched), covered, str(one.stalls)
