"""The report as a function of its result."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from click.testing import CliRunner

from agentd.cli import report_stats
from agentd.cli.report import render_report
from agentd.cli.report_identity import clock_error_ms, count_distinct
from agentd.cli.report_picture import render_picture
from agentd.cli.report_plots import log_ticks
from agentd.cli.report_table import compare_starts, facts_table
from agentd.cli.snapctl import snapctl
from agentd.cli.tables import format_plain
from agentd.wire.demo import DemoResult, Identity, Machine, Sample, Stages

VOID = {"meta"}


def samples(count: int, ms: float) -> list[Sample]:
    return [Sample(ms + i, 1.7e9 + i) for i in range(count)]


def identity(number: int, **more: object) -> Identity:
    names = ("urandom", "random", "numpy", "uuid4", "uuid1", "hostname", "machine_id", "boot_id")
    values = {name: f"{name}-{number}" for name in names}
    clocks = {"guest_clock_ns": 150, "host_send_ns": 100, "host_receive_ns": 200}
    return Identity(**{**values, **clocks, **more})  # type: ignore[arg-type]


def demo(**more: object) -> DemoResult:
    whole: dict[str, object] = {
        "engine": "qemu", "accel": "tcg", "template": "python", "guest_memory_mib": 256,
        "cold_ms": samples(30, 5000), "fork_ms": samples(120, 200),
        "bare_fork_ms": samples(30, 190),
        "concurrent_ms": samples(8, 700), "concurrent_wall_ms": 900.0,
        "private_mib_per_fork": [20.0] * 8, "shared_mib_per_fork": [80.0] * 8,
        "agentd_rss_mib": 60.0, "identity": [identity(n) for n in range(8)],
        "stages_ms": [Stages(20, 60, 70, 120, 150, 200 + n) for n in range(9)],
        "machine": Machine("6.1", "Some CPU", 2, 8192, "7.2", "3.11"),
        "commands": ["snapctl demo"],
    }  # fmt: skip
    return DemoResult(**{**whole, **more})  # type: ignore[arg-type]


class Checker(HTMLParser):
    """Notes elements left open, and everything a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.script = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.fetched += [name for name, _ in attrs if name in ("src", "href", "srcset")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Self-closed elements of SVG."""

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open[-1] in ("tr", "th", "td", "p") and self.open[-1] != tag:
            self.open.pop()
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.script += data


def check(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert checker.fetched == []
    assert "url(" not in page
    assert "@import" not in page
    return checker


def test_the_page_is_whole_and_carries_every_sample() -> None:
    result = demo()
    page = render_report(result)
    assert msgspec.json.decode(check(page).script, type=DemoResult) == result
    for said in ("No two forks", "8 forks requested at once", "costs 20.0 MiB", "emulated (TCG)"):
        assert said in page


def test_text_from_outside_cannot_leave_its_place() -> None:
    evil = "</script><script>alert(1)</script>"
    result = demo(
        commands=[evil], notes=[evil], template=evil, engine=evil,
        identity=[identity(n, hostname=f"{evil}{n}") for n in range(2)],
    )  # fmt: skip
    page = render_report(result)
    assert page.count("<script") == 1
    assert json.loads(check(page).script)["template"] == evil


def test_twins_are_not_called_different() -> None:
    forks = [identity(1), identity(2, boot_id="boot_id-1"), identity(3, uuid1="")]
    assert count_distinct(forks)["boot_id"] == 2
    assert count_distinct(forks)["uuid1"] == 2
    page = render_report(demo(identity=forks))
    assert "Some forks share an identity" in page
    assert "2 of 3" in page
    assert "shared: uuid1, boot_id" in format_plain(facts_table(demo(identity=forks)))


@pytest.mark.parametrize(("guest_ns", "error_ms"), [(150, 0), (100, 0), (50, 50e-6), (260, 60e-6)])
def test_a_guest_clock_is_right_between_question_and_answer(guest_ns: int, error_ms: float) -> None:
    assert clock_error_ms(identity(1, guest_clock_ns=guest_ns)) == pytest.approx(error_ms)


EMPTY = {
    name: []
    for name in (
        "cold_ms", "fork_ms", "bare_fork_ms", "concurrent_ms", "private_mib_per_fork",
        "shared_mib_per_fork", "identity", "stages_ms", "commands",
    )
}  # fmt: skip


@pytest.mark.parametrize("name", [*EMPTY, "everything"])
def test_a_part_that_was_not_measured_is_left_out(name: str) -> None:
    result = demo(**(EMPTY if name == "everything" else {name: []}))
    check(render_report(result))
    format_plain(compare_starts(result))
    format_plain(facts_table(result))


def test_one_sample_of_each_is_enough_to_draw() -> None:
    page = render_report(demo(cold_ms=samples(1, 3), fork_ms=samples(1, 3), bare_fork_ms=[]))
    check(page)
    assert "bootstrap" not in page


def test_a_tail_needs_its_samples() -> None:
    few, some, many = (report_stats.summarize([float(i) for i in range(n)]) for n in (99, 100, 500))
    assert few is not None
    assert some is not None
    assert many is not None
    assert (few.p95, some.p99) == (None, None)
    assert some.p95 == pytest.approx(94.05)
    assert many.p99 == pytest.approx(494.01)
    assert report_stats.summarize([]) is None


def test_the_interval_of_the_ratio_holds_the_ratio_and_repeats() -> None:
    slow, fast = [100.0 + i for i in range(20)], [10.0 + i / 10 for i in range(20)]
    interval = report_stats.ratio_interval(slow, fast)
    assert interval is not None
    assert interval[0] < 10.0 < interval[1]
    assert interval == report_stats.ratio_interval(slow, fast)
    assert report_stats.ratio_interval(slow[:7], fast) is None


@pytest.mark.parametrize(
    ("low", "high"), [(180, 7000), (1, 2), (0.1, 1e6), (200, 201), (990, 1010)]
)
def test_axes_have_few_round_ticks(low: float, high: float) -> None:
    ticks = log_ticks(low, high)
    assert len(ticks) <= 8
    assert all(low <= tick <= high for tick in ticks)


def test_the_table_compares_with_cold() -> None:
    plain = format_plain(compare_starts(demo()))
    assert "agentd fork" in plain
    assert "n < 100" in plain
    assert f"{5014.5 / 259.5:.1f}x" in plain


def test_the_command_writes_the_page(tmp_path: Path) -> None:
    saved, page = tmp_path / "demo.json", tmp_path / "demo.html"
    saved.write_bytes(msgspec.json.encode(demo()))
    done = CliRunner().invoke(snapctl, ["report", str(saved), "--html", str(page)])
    assert done.exit_code == 0, done.output
    assert "AGAINST COLD" in done.stdout
    check(page.read_text())
    as_json = CliRunner().invoke(snapctl, ["report", str(saved), "--json"])
    assert json.loads(as_json.stdout)["engine"] == "qemu"
    for broken in (b"{}", msgspec.json.encode(demo(version=99))):
        saved.write_bytes(broken)
        assert CliRunner().invoke(snapctl, ["report", str(saved)]).exit_code == 2


def test_the_picture_is_whole_and_says_where_it_was_measured() -> None:
    drawn = render_picture(demo(commands=["snapctl <demo>"]))
    ElementTree.fromstring(drawn)
    for text in ("5.01 s", "260 ms", "snapctl &lt;demo&gt;", "Some CPU", "forks one by one: 120"):
        assert text in drawn


def test_the_picture_s_bars_are_as_long_as_their_times() -> None:
    drawn = ElementTree.fromstring(render_picture(demo()))
    cold, fork, *stages = (
        float(rect.get("width", "0")) for rect in drawn.iter() if rect.get("height") == "20"
    )
    assert fork / cold == pytest.approx(259.5 / 5014.5, rel=0.01)
    assert sum(stages) == pytest.approx(cold, rel=0.01)


def test_the_command_draws_the_picture_or_says_what_is_missing(tmp_path: Path) -> None:
    saved, picture = tmp_path / "demo.json", tmp_path / "demo.svg"
    argv = ["report", str(saved), "--picture", str(picture)]
    saved.write_bytes(msgspec.json.encode(demo(cold_ms=[])))
    refused = CliRunner().invoke(snapctl, argv)
    assert (refused.exit_code, picture.exists()) == (2, False)
    assert "nothing to compare" in refused.output
    saved.write_bytes(msgspec.json.encode(demo()))
    assert CliRunner().invoke(snapctl, argv).exit_code == 0
    assert picture.read_text().startswith("<svg")
