"""Read bundles, write the report."""

from __future__ import annotations

import os
from pathlib import Path

from agentd.cli.tables import Table, format_plain
from agentd.errors import ErrorCode, UsageError
from bench.bundle import Bundle, read_bundle, verify_bundle
from bench.report.figures import measure_groups
from bench.report.page import render_page
from bench.report.section import Section
from bench.report.sections import headline, plan_sections
from bench.report.tables import format_markdown, series_table
from bench.report.words import clean


def write_report(directory: Path, path: Path | None = None, base: Path | None = None) -> Path:
    """Write the page of a bundle, whole or not at all.

    Args: path: beside the bundle, by its name, if there is none; not inside it, where every file
    has a digest. base: another bundle, to compare with.
    Returns: where the page is. Raises: UsageError.
    """
    target = path or page_of(directory)
    if target.absolute().is_relative_to(directory.absolute()):
        message = f"writing the report to {str(target)!r}: it would be inside the bundle"
        raise UsageError(ErrorCode.REQUEST_INVALID, message, hint="write it beside the bundle")
    bundle, sections = _read(directory, base)
    title = clean(directory.absolute().name)
    _replace(target, render_page(title, headline(bundle), sections))
    return target


def page_of(directory: Path) -> Path:
    """Beside the bundle: `build/bench/quick.html` of `build/bench/quick`."""
    return directory.absolute().with_name(f"{directory.absolute().name}.html")


def format_report(directory: Path, base: Path | None = None) -> str:
    """The same for a terminal. Raises: UsageError."""
    bundle, sections = _read(directory, base)
    return "\n".join([headline(bundle), "", *(_format(one) for one in sections)])


def format_baseline(directory: Path) -> str:
    """What a page quotes: where it comes from, promises, every series. Raises: UsageError."""
    bundle = read_bundle(directory)
    series = series_table(sorted(measure_groups(bundle.samples), key=lambda one: one.group))
    parts = [_origin(bundle), format_markdown(series)]
    if bundle.promises:
        parts.insert(1, format_markdown(_promises(bundle)))
    return "\n".join(parts)


def _origin(bundle: Bundle) -> str:
    about = bundle.manifest
    versions = ", ".join(f"{name} {version}" for name, version in sorted(about.versions.items()))
    return (
        f"{headline(bundle)}, {about.took_s:.0f} s, commit {about.commit[:12]}. "
        f"{about.machine.cores} x {about.machine.cpu}; {versions}. "
        f"The host took {100 * about.steal_share:.1f} % of the processor time.\n"
    )


def _promises(bundle: Bundle) -> Table:
    rows = [
        (one.name, one.promised, one.measured, "yes" if one.is_kept else "no")
        for one in bundle.promises
    ]
    return Table(("PROMISE", "LIMIT", "MEASURED", "KEPT"), rows)


def _read(directory: Path, base: Path | None) -> tuple[Bundle, list[Section]]:
    bundle = read_bundle(directory)
    problems = verify_bundle(directory)
    other = read_bundle(base) if base else None
    problems += [f"the base: {one}" for one in verify_bundle(base)] if base else []
    return bundle, plan_sections(bundle, problems, other)


def _replace(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, path)
    except OSError as exc:
        unfinished.unlink(missing_ok=True)
        message = f"writing the report to {str(path)!r}: {exc.strerror}"
        raise UsageError(ErrorCode.REQUEST_INVALID, message) from exc


def _format(one: Section) -> str:
    lines = [one.title, "=" * len(one.title), *one.words, *(f"- {text}" for text in one.items)]
    if one.drawn:
        lines += ["", *one.drawn]
    return "\n".join([*lines, *(_table(table) for table in one.tables), ""])


def _table(table: Table) -> str:
    title = f"{table.title}\n" if table.title else ""
    return f"\n{title}{format_plain(table)}".rstrip()
