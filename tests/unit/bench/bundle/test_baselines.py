"""What docs/performance.md quotes is what the kept bundles say."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.bundle import verify_bundle
from bench.machine import ROOT
from bench.report.writing import format_baseline

BASELINES = ROOT / "bench" / "baselines"
PAGE = ROOT / "docs" / "performance.md"


def kept() -> list[Path]:
    return sorted(path for path in BASELINES.iterdir() if path.is_dir())


def quoted(name: str) -> str:
    """What stands between the marks of a baseline."""
    _, begin, rest = PAGE.read_text().partition(f"<!-- baseline {name} -->\n")
    assert begin, f"{PAGE} does not quote {name}"
    return rest.partition("<!-- end of baseline -->")[0]


def test_there_are_baselines() -> None:
    assert kept()


@pytest.mark.parametrize("directory", kept(), ids=lambda path: str(path.name))
def test_a_baseline_is_a_valid_bundle(directory: Path) -> None:
    assert verify_bundle(directory) == []


@pytest.mark.parametrize("directory", kept(), ids=lambda path: str(path.name))
def test_the_page_quotes_it_as_it_is(directory: Path) -> None:
    assert quoted(directory.name).strip() == format_baseline(directory).strip()
