"""Read bundles, write the report."""

from __future__ import annotations

import os
from pathlib import Path

from agentd.cli.tables import Table, format_plain
from agentd.errors import ErrorCode, UsageError
from bench.bundle import Bundle, read_bundle, verify_bundle
from bench.report.page import render_page
from bench.report.section import Section
from bench.report.sections import headline, plan_sections
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
