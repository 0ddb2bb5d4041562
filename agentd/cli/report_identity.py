"""Render the proof that forks do not share what identifies a machine."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from agentd.wire.demo import Identity

_PROPERTIES = {
    "urandom": "kernel entropy, os.urandom",
    "random": "Python's random",
    "numpy": "NumPy's generator",
    "uuid4": "uuid4",
    "uuid1": "uuid1",
    "hostname": "hostname",
    "machine_id": "machine id",
    "boot_id": "boot id",
}


def render_identity(forks: Sequence[Identity]) -> str:
    """A section with one row per property, and every value behind a fold."""
    if not forks:
        return ""
    count = count_distinct(forks)
    all_differ = all(distinct == len(forks) for distinct in count.values())
    title = "No two forks are the same machine" if all_differ else "Some forks share an identity"
    rows = "".join(
        f'<tr><td class="wrap">{label}</td><td>{_verdict(count[name], len(forks))}</td>'
        f'<td class="mono">{escape(_short(getattr(forks[0], name)))}</td></tr>'
        for name, label in _PROPERTIES.items()
    )
    return (
        f"<section><h2>{title}</h2>"
        f'<p class="note">What {len(forks)} forks of one template answered when asked.</p>'
        '<div class="wide"><table><tr><th>property</th><th>distinct</th><th>for example</th></tr>'
        f"{rows}{_clock_row(forks)}</table></div>{_all_values(forks)}</section>"
    )


def count_distinct(forks: Sequence[Identity]) -> dict[str, int]:
    """How many different, non-empty values the forks gave for each property."""
    return {name: len({getattr(fork, name) for fork in forks} - {""}) for name in _PROPERTIES}


def clock_error_ms(fork: Identity) -> float:
    """By how much a guest's clock lay outside the host's moments around the question."""
    early = fork.host_send_ns - fork.guest_clock_ns
    return max(early, fork.guest_clock_ns - fork.host_receive_ns, 0) / 1e6


def _verdict(distinct: int, total: int) -> str:
    kind, mark = ("ok", "&#10003;") if distinct == total else ("bad", "&#10007;")
    return f'<span class="{kind}">{mark} {distinct} of {total}</span>'


def _clock_row(forks: Sequence[Identity]) -> str:
    right = sum(clock_error_ms(fork) == 0 for fork in forks)
    worst = max(map(clock_error_ms, forks))
    detail = "between question and answer" if worst == 0 else f"worst is off by {worst:.2f} ms"
    return (
        f'<tr><td class="wrap">clock is right</td><td>{_verdict(right, len(forks))}</td>'
        f'<td class="wrap">{detail}</td></tr>'
    )


def _short(value: str) -> str:
    return value if len(value) <= 18 else f"{value[:16]}…"


def _all_values(forks: Sequence[Identity]) -> str:
    head = "".join(f"<th>{label}</th>" for label in _PROPERTIES.values())
    rows = "".join(
        f"<tr><td>{number}</td>"
        + "".join(f'<td class="mono">{escape(getattr(fork, name))}</td>' for name in _PROPERTIES)
        + f'<td class="n">{clock_error_ms(fork):.2f}</td></tr>'
        for number, fork in enumerate(forks, 1)
    )
    return (
        '<details><summary>All values</summary><div class="wide"><table><tr><th>fork</th>'
        f'{head}<th class="n">clock error, ms</th></tr>{rows}</table></div></details>'
    )
