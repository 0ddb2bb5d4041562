"""`snap-pager working-set`, as a program: what it prints, what it refuses, what it leaves."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGER = ROOT / "native" / "pager"
PAGE = 4096
DIGEST = "07" * 32

pytestmark = pytest.mark.timeout(180)


@dataclass(frozen=True)
class Programs:
    """The page server with a writer of records."""

    pager: Path
    writer: Path


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    """Both, just built."""
    directory = tmp_path_factory.mktemp("pager")
    make = ["make", "-s", "-C", str(ROOT / "native"), f"O={directory}", "pager"]
    parts = [PAGER / f"{name}.c" for name in ("record", "whole_file", "working_set_file", "image")]
    includes = [f"-I{path}" for path in (ROOT / "native/core", PAGER, ROOT / "tests/native")]
    source = ROOT / "tests/native/pager/write_record.c"
    writer = directory / "write_record"
    cc = ["cc", "-std=gnu11", *includes, str(source), *map(str, parts), "-o", str(writer)]
    for command in (make, cc):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return Programs(directory / "snap-pager", writer)


@dataclass(frozen=True)
class Bench:
    """A directory with an image of 20 pages, of which the last 10 are a hole."""

    programs: Programs
    path: Path

    @property
    def image(self) -> Path:
        """The image's file."""
        return self.path / "image"

    @property
    def out(self) -> Path:
        """Where the working set goes."""
        return self.path / "set"

    def record(self, name: str, *pages: str) -> Path:
        """A record of the image."""
        out = self.path / name
        command = [self.programs.writer, self.image, "7", out, *pages]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return out

    def run(self, *arguments: str | Path, **changed: str) -> subprocess.CompletedProcess[str]:
        """Run the command with all it needs, or with an option changed, or left out as ""."""
        options = {
            "image": str(self.image),
            "digest": DIGEST,
            "out": str(self.out),
            "budget_pages": "100",
            **changed,
        }
        words = [
            word
            for name, value in options.items()
            if value
            for word in (f"--{name.replace('_', '-')}", value)
        ]
        command = [self.programs.pager, "working-set", *words, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    def make(self, *arguments: str | Path, **changed: str) -> dict[str, Any]:
        """Run it; what it printed."""
        done = self.run(*arguments, **changed)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("\n") == 1
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def refusal(self, *arguments: str | Path, **changed: str) -> tuple[int, str]:
        """Run it in vain; the exit status with the line on standard error."""
        done = self.run(*arguments, **changed)
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("error: snap-pager working-set: ")
        return done.returncode, done.stderr


@pytest.fixture
def bench(programs: Programs, tmp_path: Path) -> Bench:
    """An image without records."""
    with (tmp_path / "image").open("wb") as image:
        image.write(os.urandom(10 * PAGE))
        image.truncate(20 * PAGE)
    return Bench(programs, tmp_path)


def test_records_become_a_working_set_with_one_line_about_it(bench: Bench) -> None:
    records = [bench.record("a", "4", "1", "2w", "15"), bench.record("b", "4", "1", "15", "7")]
    assert bench.make(*records) == {
        "pages": 3,
        "runs": 3,
        "data_bytes": 2 * PAGE,
        "dropped_pages": 0,
        "precision": 0.75,
        "recall": 0.75,
    }
    content = bench.out.read_bytes()
    image = bench.image.read_bytes()
    assert content.startswith(b"SNAPWSET")
    assert content[-2 * PAGE :] == image[4 * PAGE : 5 * PAGE] + image[PAGE : 2 * PAGE]
    assert sorted(path.name for path in bench.path.iterdir()) == ["a", "b", "image", "set"]


def test_what_one_record_cannot_tell_is_null(bench: Bench) -> None:
    answer = bench.make(bench.record("a", "4"))
    assert (answer["precision"], answer["recall"]) == (None, None)


def test_the_budget_drops_what_comes_last(bench: Bench) -> None:
    answer = bench.make(bench.record("a", "4", "1", "8"), budget_pages="2")
    assert (answer["pages"], answer["dropped_pages"]) == (2, 1)


def test_equal_orders_make_equal_files(bench: Bench) -> None:
    records = [bench.record("a", "4", "1", "5"), bench.record("b", "1", "4")]
    bench.make(*records)
    first = bench.out.read_bytes()
    bench.make(*records)
    assert bench.out.read_bytes() == first


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        pytest.param({"image": ""}, "are all needed", id="no image"),
        pytest.param({"digest": ""}, "are all needed", id="no digest"),
        pytest.param({"out": ""}, "are all needed", id="no out"),
        pytest.param({"budget_pages": ""}, "are all needed", id="no budget"),
        pytest.param({"digest": "07" * 31}, "64 hexadecimal digits", id="a digest too short"),
        pytest.param({"digest": "0G" * 32}, "64 hexadecimal digits", id="a digest with a G"),
        pytest.param({"budget_pages": "0"}, "from 1 on", id="a budget of nothing"),
        pytest.param({"budget_pages": "-5"}, "from 1 on", id="a negative budget"),
        pytest.param({"budget_pages": "1e3"}, "from 1 on", id="a budget in science"),
        pytest.param({"budget_pages": "9" * 30}, "from 1 on", id="a budget beyond numbers"),
        pytest.param({"colour": "red"}, "no such option", id="an unknown option"),
    ],
)
def test_wrong_orders_are_refused_with_status_2(
    bench: Bench, changed: dict[str, str], says: str
) -> None:
    status, line = bench.refusal(bench.record("a", "4"), **changed)
    assert (status, says in line) == (2, True), line
    assert not bench.out.exists()


def test_no_record_at_all_is_a_wrong_order(bench: Bench) -> None:
    status, line = bench.refusal()
    assert (status, "1 to 1024 records" in line) == (2, True), line


def test_option_without_its_value_is_a_wrong_order(bench: Bench) -> None:
    status, line = bench.refusal(bench.record("a", "4"), "--out")
    assert (status, "no such option, or one without its value" in line) == (2, True), line


def test_each_failure_names_its_file_and_what_to_do(bench: Bench) -> None:
    good, damaged = bench.record("good", "4"), bench.record("damaged", "4")
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\xff")
    status, line = bench.refusal(good, damaged)
    assert (status, f"record {damaged}: it is damaged" in line) == (1, True), line
    status, line = bench.refusal(good, bench.path / "none")
    assert (status, "none: No such file or directory" in line) == (1, True), line
    status, line = bench.refusal(good, digest="08" * 32)
    assert (status, f"record {good}: it does not belong to the image" in line) == (1, True), line
    status, line = bench.refusal(good, image=str(bench.path / "gone"))
    assert (status, "opening image" in line) == (1, True), line
    status, line = bench.refusal(good, out=str(bench.path / "no" / "set"))
    assert (status, "writing" in line) == (1, True), line
    assert not bench.out.exists()


def test_an_answer_that_cannot_be_printed_is_a_failure(bench: Bench) -> None:
    record = bench.record("a", "4")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [
                *(bench.programs.pager, "working-set", "--image", bench.image, "--digest", DIGEST),
                *("--out", bench.out, "--budget-pages", "9", record),
            ],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "standard output" in done.stderr
