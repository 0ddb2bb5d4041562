"""What is new between two looks at the page server."""

from __future__ import annotations

import math

import pytest

from agentd.metrics import Metrics
from agentd.pager.watch import COUNTED, compare, is_wanted, summarise
from agentd.wire.pager import PROCESS_ENDED, MachineStats, Stats, StoppedMachine


def machine(
    vm: str,
    state: str = "serving",
    pid: int = 7,
    reason: str = "",
    covered: float | None = None,
    **counts: int,
) -> MachineStats:
    return MachineStats(
        vm, "firecracker", state, pid, "demand", "w", reason, covered=covered, **counts
    )


def stats(*machines: MachineStats, stopped: tuple[StoppedMachine, ...] = ()) -> Stats:
    return Stats(1, 2.0, list(machines), list(stopped))


def test_at_the_first_look_all_that_was_counted_is_new() -> None:
    changes = compare(None, stats(machine("a", faults=3, copied=5), machine("b", faults=4)))
    assert [one.vm for one in changes.served] == ["a", "b"]
    assert (changes.counted["faults"], changes.counted["copied"]) == (7, 5)


def test_at_the_next_look_only_what_came_on_top_is() -> None:
    before = stats(machine("a", faults=3, stalls=1))
    changes = compare(before, stats(machine("a", faults=10, stalls=1), machine("b", faults=2)))
    assert [one.vm for one in changes.served] == ["b"]
    assert (changes.counted["faults"], changes.counted["stalls"]) == (9, 0)


def test_a_machine_that_is_gone_takes_nothing_back() -> None:
    changes = compare(stats(machine("a", faults=3)), stats())
    assert set(changes.counted.values()) == {0}


def test_another_process_under_the_same_name_begins_to_count_anew() -> None:
    before = stats(machine("a", pid=7, faults=30))
    assert compare(before, stats(machine("a", pid=8, faults=40))).counted["faults"] == 40


def test_a_count_never_falls() -> None:
    assert compare(stats(machine("a", faults=30)), stats(machine("a", faults=3))).counted[
        "faults"
    ] == 0  # fmt: skip


def test_a_machine_counts_once_its_memory_was_handed_over() -> None:
    listening = stats(machine("a", state="listening", pid=0))
    assert compare(None, listening).served == []
    assert [one.vm for one in compare(listening, stats(machine("a"))).served] == ["a"]


def test_a_machine_that_was_stopped_is_told_once() -> None:
    ended = StoppedMachine("a", "its image was cut")
    assert compare(stats(), stats(stopped=(ended,))).stopped == [ended]
    assert compare(stats(stopped=(ended,)), stats(stopped=(ended,))).stopped == []


def test_what_was_stopped_before_the_first_look_is_not_news() -> None:
    assert compare(None, stats(stopped=(StoppedMachine("a", "x"),))).stopped == []


def test_a_process_that_ended_was_not_stopped() -> None:
    assert compare(stats(), stats(stopped=(StoppedMachine("a", PROCESS_ENDED),))).stopped == []


def test_a_machine_that_is_being_stopped_is_told_once() -> None:
    stopping = stats(machine("a", state="stopped", reason="its image was cut"))
    gone = stats(stopped=(StoppedMachine("a", "its image was cut"),))
    assert compare(stats(machine("a")), stopping).stopped == gone.stopped
    assert compare(stopping, stopping).stopped == []
    assert compare(stopping, gone).stopped == []


def test_a_session_that_ended_well_was_not_stopped() -> None:
    assert compare(stats(), stats(machine("a", state="stopped"))).stopped == []


def test_a_summary_weighs_machines_by_what_their_guests_asked_for() -> None:
    summary = summarise(
        stats(
            machine("a", prefetched=90, faults=10, covered=0.9, max_stall_us=2_000),
            machine("b", prefetched=0, faults=100, covered=0.0, max_stall_us=15_000),
            machine("c", state="listening", prefetched=1000),
        )
    )
    assert (summary.machines, summary.covered, summary.max_stall_s) == (2, 0.45, 0.015)


def test_a_summary_of_nothing_is_no_share() -> None:
    for nothing in (None, stats(), stats(machine("a"))):
        assert math.isnan(summarise(nothing).covered)
        assert summarise(nothing).max_stall_s == 0.0


@pytest.mark.parametrize(
    ("engine", "serves_kuasar", "wanted"),
    [
        ("qemu", False, False),
        ("qemu", True, True),
        ("firecracker", False, True),
        ("cloud-hypervisor", False, False),
    ],
)
def test_a_page_server_is_started_where_a_monitor_gains_by_it(
    engine: str, serves_kuasar: bool, wanted: bool
) -> None:
    assert is_wanted(engine, serves_kuasar=serves_kuasar) is wanted


def test_metrics_count_what_changed() -> None:
    metrics = Metrics()
    counted = dict.fromkeys(COUNTED, 0) | {"faults": 7, "prefetched": 40}
    metrics.step("pager.counted", **counted)
    metrics.step("pager.counted", **counted)
    metrics.step("pager.served", vm="a", method="install-before", why="it is warm")
    metrics.step("pager.machine.failed", vm="a", reason="cut")
    text = metrics.render().decode()
    assert "snapstart_pager_faults_total 14.0" in text
    assert "snapstart_pager_prefetched_pages_total 80.0" in text
    assert (
        'snapstart_pager_machines_served_total{method="install-before",why="it is warm"} 1.0'
        in text
    )
    assert "snapstart_pager_machines_stopped_total 1.0" in text


def test_every_count_has_a_series() -> None:
    metrics = Metrics()
    for name in COUNTED:
        before = metrics.render()
        metrics.step("pager.counted", **(dict.fromkeys(COUNTED, 0) | {name: 1}))
        assert metrics.render() != before, name
