"""The `snapctl report` command: a demo's saved result as a table, a page, a picture."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from agentd.cli.settings import Settings, common_options, pass_settings
from agentd.cli.tables import print_table
from agentd.wire.demo import VERSION, DemoResult


@click.command(epilog="\b\nExample:\n  snapctl report demo.json --html demo.html\n")
@click.argument("result", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), help="Write the page to this file."
)
@click.option(
    "--picture",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write cold start against fork to this file, an SVG picture.",
)
@common_options
@pass_settings
def report(settings: Settings, result: Path, html: Path | None, picture: Path | None) -> None:
    """Show the RESULT of a demo run, a JSON file."""
    from agentd.cli.report import render_report
    from agentd.cli.report_table import compare_starts, facts_table

    found = load_result(result)
    if html is not None:
        html.write_text(render_report(found), encoding="utf-8")
    if picture is not None:
        picture.write_text(_drawn(found, result), encoding="utf-8")
    settings.show(found, lambda: compare_starts(found))
    if not settings.as_json:
        print_table(facts_table(found))
    for written in (html, picture):
        if written is not None:
            settings.say(f"wrote {written}")


def _drawn(found: DemoResult, path: Path) -> str:
    from agentd.cli.report_picture import render_picture

    try:
        return render_picture(found)
    except ValueError as exc:
        raise click.UsageError(f"drawing {str(path)!r}: {exc}") from exc


def load_result(path: Path) -> DemoResult:
    """Read a saved result. Raises: click.UsageError if the file is not one."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=DemoResult)
    except msgspec.MsgspecError as exc:
        raise click.UsageError(f"{str(path)!r} is not a demo's result: {exc}") from exc
    if found.version != VERSION:
        raise click.UsageError(f"{str(path)!r} has version {found.version}, not {VERSION}")
    return found
