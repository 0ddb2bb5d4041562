"""Draw the result of the demonstration for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agentd.cli.report_stats import format_ms, summarize
from agentd.cli.tables import Table
from bench.cluster.result import ClusterResult, Counts, Session


def all_tables(result: ClusterResult) -> list[Table]:
    """In the order of the story."""
    return [counts_table(result), sessions_table(result), starts_table(result), facts_table(result)]


def counts_table(result: ClusterResult) -> Table:
    """The snapshot's counts over time."""
    columns = ("AFTER", "PHASE", "NODES", "CREATING", "READY", "FAILED", "UNAVAILABLE")
    rows = [_counts(one) for one in result.snapshot.counts]
    numeric = frozenset({"AFTER", *columns[2:]})
    return Table(columns, rows, title="SandboxSnapshot python over time", numeric=numeric)


def _counts(one: Counts) -> tuple[str, ...]:
    numbers = (one.target, one.creating, one.ready, one.failed, one.unavailable)
    return (f"{one.at_s:.1f} s", one.phase, *(str(number) for number in numbers))


def sessions_table(result: ClusterResult) -> Table:
    """Each session with what its own code answered."""
    columns = ("SESSION", "ACT", "NODE", "START", "READY", "REPLY", "BOOT ID", "SESSION ID")
    rows = [
        (
            one.name,
            act,
            one.node,
            "restored" if one.restored else f"cold: {one.reason}",
            format_ms(one.ready_ms),
            format_ms(one.reply_ms),
            one.reply.boot_id[:8],
            one.reply.session_id,
        )
        for act, sessions in _acts(result)
        for one in sessions
    ]
    title = "from the request for a Sandbox to Ready, to the first reply of its code"
    return Table(columns, rows, title=title, numeric=frozenset({"READY", "REPLY"}))


def _acts(result: ClusterResult) -> Iterator[tuple[str, Sequence[Session]]]:
    yield "first", result.sessions
    yield "pool", result.refills
    yield "edited", result.rebuild.meanwhile
    yield "rebuilt", result.rebuild.after


def starts_table(result: ClusterResult) -> Table:
    """Restored against cold, of sessions that nobody made ahead."""
    everyone = [*result.sessions, *result.rebuild.meanwhile, *result.rebuild.after]
    columns = ("START", "N", "MIN", "MEDIAN", "MAX")
    rows = []
    for name, is_restored in (("restored", True), ("cold", False)):
        times = [one.reply_ms for one in everyone if one.restored is is_restored]
        found = summarize(times)
        if found is not None:
            figures = (found.minimum, found.median, found.maximum)
            rows.append((name, str(found.count), *(format_ms(value) for value in figures)))
    return Table(
        columns,
        rows,
        title="request to first reply; cold ones beside the builds",
        numeric=frozenset(columns[1:]),
    )


def facts_table(result: ClusterResult) -> Table:
    """The rest in one line each."""
    lost, rebuild = result.outage, result.rebuild
    rows = [
        ("snapshot ready on all nodes after", f"{result.snapshot.ready_s:.1f} s"),
        ("rebuilt on all nodes after", f"{rebuild.rebuilt_s:.1f} s"),
        (f"machines on {lost.node} without agentd", f"{lost.alive} of {lost.machines} ran on"),
        ("of these answered by their own channel", f"{lost.answered} of {lost.machines}"),
        ("sessions elsewhere that answered", str(lost.others)),
        ("counted unavailable after", f"{lost.noticed_s:.1f} s"),
        ("ready again after agentd's restart", f"{lost.recovered_s:.1f} s"),
        ("carried on in the same machine", f"{lost.same} of {lost.machines}"),
        ("left on this host", str(result.leaks.count)),
    ]
    return Table(("FACT", "VALUE"), rows)
