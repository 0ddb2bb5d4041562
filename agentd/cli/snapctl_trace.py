"""The `snapctl trace` command: where the time of one session's start went."""

from __future__ import annotations

import click

from agentd.cli.settings import Settings, common_options, pass_settings
from agentd.cli.tables import Table, ms
from agentd.cli.waterfall import Bar, draw_bar, plan_waterfall
from agentd.client import calls


@click.command(epilog="\b\nExample:\n  snapctl trace ID\n")
@click.argument("session_id", metavar="ID")
@common_options
@pass_settings
def trace(settings: Settings, session_id: str) -> None:
    """Show where the time of a session's start went, stage by stage.

    Each bar is one stage, from the moment the one before it was over; "=" is a stage that ran
    beside another, "|" one too short for a bar. Milliseconds since the request.
    """
    one = settings.send(calls.show_session(session_id))
    bars = plan_waterfall(one.stages_ms)
    total_ms = one.stages_ms.get("total")
    document = {
        "session": one.id,
        "template": one.template,
        "mode": one.mode,
        "total_ms": total_ms,
        "stages": bars,
    }
    settings.show(document, lambda: _table(bars))
    settings.say(f"{one.id}: {one.mode.value} of {one.template}, {ms(total_ms)} ms in all")


def _table(bars: list[Bar]) -> Table:
    whole_ms = max((bar.end_ms for bar in bars), default=0.0)
    return Table(
        ("STAGE", "FROM", "MS", "WATERFALL", "WHAT"),
        [
            (bar.stage, ms(bar.begin_ms), ms(bar.took_ms), draw_bar(bar, whole_ms), _what(bar))
            for bar in bars
        ],
        numeric=frozenset({"FROM", "MS"}),
        empty="no stages are known of this session",
    )


def _what(bar: Bar) -> str:
    return f"{bar.what}, beside {bar.beside}" if bar.beside else bar.what
