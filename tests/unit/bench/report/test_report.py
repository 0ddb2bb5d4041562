"""A report tells all that a bundle holds, what is wrong with it too, and needs nothing else."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from agentd.errors import ErrorCode, UsageError
from bench.bundle import Promised, verify_bundle
from bench.report import write_report
from bench.report.__main__ import main
from bench.report.figures import find_curves, find_waterfalls, match_groups, measure_groups
from bench.report.plots import choose_scale, thin
from bench.report.writing import format_baseline, format_report
from tests.unit.bench.report.bundles import PROMISES, STAGES, sample, usual, write_bundle

_EMPTY = {"meta", "rect", "line", "circle"}


class Page(HTMLParser):
    """What a browser would make of it: elements, attributes, text; that all that opens closes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in _EMPTY:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(bundle: Path, base: Path | None = None) -> Page:
    return Page(write_report(bundle, base=base).read_text())


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "quick", *usual(), promises=PROMISES)


def test_a_page_shows_every_part_of_a_run(bundle: Path) -> None:
    page = page_of(bundle)
    for title in (
        "Failed samples: 1",
        "1 of 2 limits kept",
        "Stages of fork",
        "Throughput against how many at once",
        "Memory",
        "Distribution: lookup",
        "Every series",
        "Where it was measured",
        "What these figures do not tell",
    ):
        assert title in page.text
    assert "knee at 8" in page.text
    assert "reaches 90% of the highest" in page.text
    assert "1 of 31the machine did not start" in page.text


def test_a_page_asks_nobody_for_anything(bundle: Path) -> None:
    html = write_report(bundle, base=bundle).read_text()
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object", "a"} & set(page.tags)
    assert not {"src", "href", "srcset", "style"} & {name for name, _ in page.attributes}
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert not re.search(r"url\(|@import|https?:", html)
    assert "default-src &#x27;none&#x27;" in html


def test_a_page_fits_a_telephone_and_follows_its_colours(bundle: Path) -> None:
    html = write_report(bundle).read_text()
    assert 'name="viewport" content="width=device-width,initial-scale=1"' in html
    assert "prefers-color-scheme:dark" in html
    assert set(re.findall(r'<svg width="([^"]*)"', html)) == {"100%"}
    assert all(
        word.endswith("%") for word in re.findall(r' (?:x|x1|x2|cx)="([^"]+)"', html) if word != "0"
    )


def test_every_picture_tells_its_figures_to_who_does_not_see_it(bundle: Path) -> None:
    html = write_report(bundle, base=bundle).read_text()
    pictures = re.findall(r"<svg .*?</svg>", html)
    assert len(pictures) > 20
    for picture in pictures:
        is_axis = 'aria-hidden="true"' in picture
        assert is_axis or ("<title>" in picture and re.search(r"<desc>[^<]*\d", picture))


@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param("<script>alert(1)</script>", id="script"),
        pytest.param('" onload="x', id="attribute"),
        pytest.param("</title></svg><b>", id="end of an element"),
        pytest.param("&lt;b&gt; `x", id="entities"),
    ],
)
def test_names_of_a_bundle_are_text_wherever_they_are_shown(tmp_path: Path, hostile: str) -> None:
    every = [
        sample(f"{hostile}.stage", 1.0, stage=hostile),
        sample(hostile, 1.0, unit=hostile, **{hostile: hostile}),
        sample(hostile, 5.0, together="2"),
        sample(hostile, None, error=hostile),
        sample(hostile, 1.0, unit="MiB"),
    ]
    promise = Promised(name=hostile, promised=hostile, measured=hostile, is_kept=False)
    bundle = write_bundle(tmp_path / "b", *every, promises=(promise,))
    page = page_of(bundle, write_bundle(tmp_path / "base", sample(hostile, 3.0)))
    assert not {"script", "b<"} & set(page.tags)
    assert "onload" not in {name for name, _ in page.attributes}
    assert hostile in page.text


def test_a_name_says_nothing_to_the_terminal(tmp_path: Path) -> None:
    hostile = "\x1b]0;mine\x07\x9b31mfork\u202e\nNEXT" + "x" * 9000
    bundle = write_bundle(tmp_path / "b", sample(hostile, 1.0), sample("b", None, error=hostile))
    text = format_report(bundle)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert "fork NEXT" in text
    assert len(text) < 20_000
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", write_report(bundle).read_text())


def test_a_bundle_without_the_series_has_the_page_without_their_sections(tmp_path: Path) -> None:
    page = page_of(write_bundle(tmp_path / "b", sample("store.put", 4.0)))
    for title in ("Stages", "Throughput", "Memory", "limits", "Failed", "base"):
        assert title not in re.sub(r"What these.*", "", page.text, flags=re.S)
    assert "store.put" in page.text


def test_a_bundle_without_samples_has_a_page(tmp_path: Path) -> None:
    assert "0 samples, 0 failed" in page_of(write_bundle(tmp_path / "b")).text


@pytest.mark.parametrize("value", [0.0, -3.0, 5.0, 1e-9, 1e300, -1e300])
def test_one_sample_is_enough(tmp_path: Path, value: float) -> None:
    every = [sample(name, value) for name in ("fork", "cold")]
    every += [sample("fork.stage", value, stage="spawn"), sample("m", value, unit="MiB")]
    page = page_of(write_bundle(tmp_path / "b", *every, sample("fan_out", value, together="1")))
    assert "n = 1" in page.text
    assert not [text for _, text in page.attributes if re.search(r"\b(nan|inf)%?$", text)]


def test_samples_that_all_failed_are_shown(tmp_path: Path) -> None:
    failed = [sample("fork", None, number, error=f"reason {number % 7}") for number in range(9)]
    bundle = write_bundle(tmp_path / "b", *failed, sample("fork.stage", None, stage="spawn"))
    for text in (page_of(bundle).text, format_report(bundle)):
        assert "All samples failed." in text
        assert "9 of 9" in text
        assert "reason 0 (2x)" in text
        assert "2 other reasons" in text


def test_many_samples_make_no_large_page(tmp_path: Path) -> None:
    every = [sample("lookup", 1.0 + number % 977, number) for number in range(100_000)]
    page = write_report(write_bundle(tmp_path / "b", *every))
    assert page.stat().st_size < 40_000
    assert "n = 100000" in page.read_text()


def test_a_terminal_shows_the_tables_of_the_page(bundle: Path) -> None:
    page, text = page_of(bundle, bundle), format_report(bundle, bundle)
    rows = [
        line.split() for line in text.splitlines() if re.match(r"memory.private +sessions", line)
    ]
    assert len(rows) == 2
    assert all(cell in page.text for row in rows for cell in row)
    assert "8 #################################  <- knee" in text
    assert "agentd resident   < 80 MiB  91.2 MiB  NO" in text


def test_a_base_with_other_series_is_compared_by_those_in_common(tmp_path: Path) -> None:
    here = write_bundle(tmp_path / "b", sample("fork", 10.0), sample("new", 1.0))
    base = write_bundle(tmp_path / "base", sample("fork", 8.0), sample("old", 1.0))
    text = format_report(here, base)
    assert "1 series in common, 1 only in the base, 1 only here" in text
    assert re.search(r"fork \(qemu, warm cache\) +ms +1 +8 +1 +10 +1\.250", text)
    assert "a ratio is no verdict" in text


def test_groups_of_other_machines_are_never_compared() -> None:
    base = measure_groups([sample("fork", 1.0, kind="kvm")])
    both, gone, new = match_groups(base, measure_groups([sample("fork", 1.0)]))
    assert (both, len(gone), len(new)) == ([], 1, 1)


def test_a_base_of_no_time_has_no_ratio(tmp_path: Path) -> None:
    here = write_bundle(tmp_path / "b", sample("fork", 10.0), sample("cold", None))
    base = write_bundle(tmp_path / "base", sample("fork", 0.0), sample("cold", 3.0))
    assert re.search(r"fork \(qemu, warm cache\) +ms +1 +0 +1 +10 +-", format_report(here, base))


def test_a_bundle_that_is_not_valid_is_called_so_first(bundle: Path) -> None:
    (bundle / "percentiles.json").write_text("[]")
    text = page_of(bundle).text
    assert text.index("The bundle is not valid") < text.index("Failed samples")
    assert "sha256" in text


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == ErrorCode.REQUEST_INVALID.exit_code
    assert not list(tmp_path.iterdir())


def test_the_page_is_beside_the_bundle_and_leaves_it_valid(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(bundle)]) == 0
    assert capsys.readouterr().out == f"report: {bundle}.html\n"
    assert verify_bundle(bundle) == []
    assert sorted(one.name for one in bundle.parent.iterdir()) == ["quick", "quick.html"]


def test_a_page_inside_the_bundle_is_refused(bundle: Path) -> None:
    with pytest.raises(UsageError, match="inside the bundle"):
        write_report(bundle, bundle / "report.html")


def test_a_place_that_cannot_be_written_is_named(bundle: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere/r\.html.*No such file"):
        write_report(bundle, bundle.parent / "nowhere" / "r.html")


def test_text_alone_writes_no_file(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(bundle), "--text"]) == 0
    assert "Stages of fork" in capsys.readouterr().out
    assert not bundle.with_name("quick.html").exists()


def test_the_waterfall_is_one_round_and_leaves_out_rounds_that_lack_a_stage() -> None:
    every = [
        sample("fork.stage", end * factor, number, stage=stage)
        for number, factor in enumerate((3.0, 1.0, 2.0))
        for stage, end in STAGES.items()
    ]
    every += [
        sample("fork.stage", 1.0, 3, stage="spawn"),
        sample("fork.stage", None, 3, stage="load"),
    ]
    (found,) = find_waterfalls(every)
    assert (found.round, found.rounds, found.left_out, found.total) == (2, 3, 1, 320.0)
    assert [name for name, _, _ in found.stages] == list(STAGES)
    assert [begin for _, begin, _ in found.stages] == [0.0, 80.0, 140.0, 150.0, 180.0]


def test_throughput_is_how_many_by_the_median_time_of_all() -> None:
    every = [
        sample("fan_out", 500.0, together="8"),
        sample("fan_out.session", 100.0, together="8"),
        sample("burst.rate", 6.0, unit="1/s", clients="2", load="knee"),
        sample("burst.accepted", 9.0, clients="2", load="knee"),
        sample("fan_out", 100.0, together="many"),
        sample("fan_out", None, together="32"),
    ]
    curves = {one.name.series: one.levels for one in find_curves(measure_groups(every))}
    assert {name: [(x.at_once, x.per_s) for x in found] for name, found in curves.items()} == {
        "fan_out": [(8, 16.0)],
        "burst.rate": [(2, 6.0)],
    }


def test_a_thinned_series_keeps_both_ends() -> None:
    found = thin(range(10_000), 80)
    assert (len(found), found[0], found[-1]) == (80, 0, 9999)
    assert list(thin([1.0, 2.0], 80)) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("low", "high", "is_log"),
    [(1.0, 100.0, True), (1.0, 2.0, False), (-5.0, 5.0, False), (0.0, 9.0, False)],
)
def test_a_scale_holds_its_range_with_a_few_round_values(
    low: float, high: float, is_log: bool
) -> None:
    scale = choose_scale(low, high)
    assert scale.is_log is is_log
    assert 0 < scale.at(low) < scale.at(high) < 100
    assert 2 <= len(scale.ticks) <= 12


def test_a_baseline_tells_origin_promises_and_series_in_markdown(tmp_path: Path) -> None:
    promise = Promised(name="fork", promised="<= 2", measured="1.5", is_kept=True)
    bundle = write_bundle(
        tmp_path / "b", sample("fork", 2.0), sample("cold", 9.0), promises=(promise,)
    )
    text = format_baseline(bundle)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert "The host took" in text.partition("|")[0]
    assert rows[2] == "| fork | <= 2 | 1.5 | yes |"
    assert [row.split()[1] for row in rows[5:]] == ["cold", "fork"]
