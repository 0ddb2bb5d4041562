"""Lay sections out as one page of HTML that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from agentd.cli.report_style import CSS
from agentd.cli.tables import Table
from bench.report.section import Section

_CSS: Final = """
.row{margin:0 0 10px}.row figcaption{font-size:.9rem;line-height:1.35;overflow-wrap:anywhere}
.row figcaption span{color:var(--soft)}.row svg{margin:3px 0 0}
svg .one{stroke:var(--ink);stroke-width:1.5}
svg .knee{stroke:var(--cold);stroke-width:2;stroke-dasharray:5 4}
h1,h2,li,p{overflow-wrap:anywhere}caption{text-align:left;color:var(--soft);font-size:.88rem;
padding:6px 4px;white-space:normal}td.wrap{min-width:13em;max-width:34em;overflow-wrap:anywhere}
.no{color:var(--bad);font-weight:600}.wide:focus-visible{outline:2px solid var(--fork)}
"""
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
# Longer texts of a cell wrap; shorter ones are figures and names, which stay in one line.
_WRAP_FROM: Final = 24


def render_page(title: str, headline: str, sections: Sequence[Section]) -> str:
    """The whole page. All texts of sections are escaped here but pictures, which are HTML."""
    body = "".join(_section(one) for one in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">'
        f"<title>SnapStart: {escape(title)}</title><style>{CSS}{_CSS}</style></head>"
        f'<body><main><header><p class="eyebrow">SnapStart &middot; measured</p>'
        f'<h1>{escape(title)}</h1><p class="lead">{escape(headline)}</p></header>{body}'
        "<footer>Every sample is in the bundle, beside this page.</footer></main></body></html>\n"
    )


def _section(one: Section) -> str:
    words = "".join(f'<p class="note">{_code(text)}</p>' for text in one.words)
    items = "".join(f"<li>{_code(text)}</li>" for text in one.items)
    tables = "".join(map(_table, one.tables))
    if one.is_long and tables:
        tables = f"<details><summary>the figures</summary>{tables}</details>"
    return (
        f"<section><h2>{escape(one.title)}</h2>{words}{one.picture}{tables}"
        f"{f'<ul>{items}</ul>' if items else ''}</section>"
    )


def _code(text: str) -> str:
    """What is between two backticks is code; an odd one is itself."""
    parts = escape(text).split("`")
    if not len(parts) % 2:
        return "`".join(parts)
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


def _table(table: Table) -> str:
    title = f"<caption>{escape(table.title)}</caption>" if table.title else ""
    right = [' class="n"' if column in table.numeric else "" for column in table.columns]
    head = "".join(
        f'<th scope="col"{kind}>{escape(name.lower())}</th>'
        for name, kind in zip(table.columns, right, strict=True)
    )
    rows = "".join(f"<tr>{''.join(map(_cell, cells, right))}</tr>" for cells in table.rows)
    # What scrolls is reached by the keyboard as well.
    return (
        '<div class="wide" tabindex="0" role="group" aria-label="table">'
        f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _cell(text: str, kind: str) -> str:
    if not kind and len(text) >= _WRAP_FROM:
        kind = ' class="wrap"'
    kind = ' class="no"' if text == "NO" else kind
    return f"<td{kind}>{escape(text)}</td>"
