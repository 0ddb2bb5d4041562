"""Compare the starts of a demo on the terminal."""

from __future__ import annotations

from agentd.cli.report_identity import clock_error_ms, count_distinct
from agentd.cli.report_stats import Summary, format_ms, format_ratio, samples_needed, summarize
from agentd.cli.tables import Table
from agentd.wire.demo import DemoResult


def compare_starts(result: DemoResult) -> Table:
    """One row per way to start, with what it is compared to a cold start."""
    kinds = (
        ("cold start", result.cold_ms),
        ("agentd fork", result.fork_ms),
        ("bare fork", result.bare_fork_ms),
        (f"{len(result.concurrent_ms)} at once", result.concurrent_ms),
    )
    found = [(name, summarize([one.ms for one in samples])) for name, samples in kinds]
    cold = found[0][1]
    columns = ("START", "N", "MIN", "MEDIAN", "MIDDLE HALF", "MAX", "P95", "AGAINST COLD")
    rows = [_row(name, one, cold) for name, one in found if one is not None]
    title = f"{result.engine} with {result.accel}, request to first reply"
    return Table(columns, rows, title=title, numeric=frozenset(columns[1:]))


def _row(name: str, one: Summary, cold: Summary | None) -> tuple[str, ...]:
    return (
        name,
        str(one.count),
        format_ms(one.minimum),
        format_ms(one.median),
        f"{format_ms(one.lower)} - {format_ms(one.upper)}",
        format_ms(one.maximum),
        f"n < {samples_needed(95)}" if one.p95 is None else format_ms(one.p95),
        f"{format_ratio(cold.median / one.median)}x" if cold else "-",
    )


def facts_table(result: DemoResult) -> Table:
    """Memory, identity and clocks in one line each."""
    private, forks = result.private_mib_per_fork, result.identity
    rows = [("agentd's memory", f"{result.agentd_rss_mib:.1f} MiB")]
    if private:
        rows.append(
            ("private memory per fork", f"{sum(private) / len(private):.1f} MiB on average")
        )
    if result.concurrent_ms:
        wall = format_ms(result.concurrent_wall_ms)
        rows.append((f"{len(result.concurrent_ms)} forks at once", f"all answered after {wall}"))
    if forks:
        shared = [name for name, count in count_distinct(forks).items() if count < len(forks)]
        rows.append(("identity", f"shared: {', '.join(shared)}" if shared else "all differ"))
        rows.append(("worst guest clock", f"off by {max(map(clock_error_ms, forks)):.2f} ms"))
    return Table(("FACT", "VALUE"), rows)
