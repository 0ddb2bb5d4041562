"""The `snapctl demo` command: the whole thing on this machine, with a daemon of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import click

from agentd.cli.settings import Settings, common_options, pass_settings
from agentd.cli.snapctl_image import cache_option
from agentd.cli.tables import new_console, print_table

_COLD: Final = 1


@click.command(epilog="\b\nExample:\n  snapctl demo --html demo.html\n")
@click.option(
    "--forks",
    type=click.IntRange(2, 64),
    default=5,
    show_default=True,
    help="How many, first one after another, then at once.",
)
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page to this file."
)
@cache_option
@common_options
@pass_settings
def demo(settings: Settings, forks: int, html: Path | None, cache_dir: Path) -> None:
    """Compare a cold start with forks on this machine.

    Builds the guest image unless it is there, runs an agentd of its own in a temporary directory,
    removes both processes and directory at the end. No other daemon is touched.
    """
    from agentd.cli.demo import Plan, run_demo
    from agentd.cli.report import render_report
    from agentd.cli.report_table import compare_starts, facts_table

    console = new_console(sys.stderr)
    console.quiet = settings.as_json
    plan = Plan(cache_dir, _COLD, forks, forks, commands=["snapctl demo"])
    result = run_demo(plan, console)
    if html is not None:
        html.write_text(render_report(result), encoding="utf-8")
    settings.show(result, lambda: compare_starts(result))
    if not settings.as_json:
        print_table(facts_table(result))
    if html is not None:
        settings.say(f"wrote {html}")
