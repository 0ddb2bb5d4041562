"""The pages make a site, and say of every command whether a test runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
MARK = re.compile(r"<!-- (run by|not run): (.+) -->")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def shell_blocks(text: str) -> list[tuple[str, str]]:
    """Each block of shell with the line above it."""
    return re.findall(r"^([^\n]*)\n```sh\n(.*?)^```$", text, re.M | re.S)


def problem_of(mark: str, page: str) -> str:
    """What is wrong with what stands above a block, or nothing."""
    found = MARK.fullmatch(mark)
    if found is None:
        return "neither `<!-- run by: TEST -->` nor `<!-- not run: REASON -->` stands above it"
    if found[1] == "not run":
        return "" if " " in found[2] else "the reason is no sentence"
    test = ROOT / found[2]
    if not test.is_file():
        return f"{found[2]} does not exist"
    return "" if page in test.read_text() else f"{found[2]} does not read {page}"


@each_page
def test_every_command_is_run_by_a_test_or_says_why_not(page: Path) -> None:
    blocks = shell_blocks(page.read_text())
    problems = {body: problem_of(mark, page.name) for mark, body in blocks}
    assert {body: problem for body, problem in problems.items() if problem} == {}


@pytest.mark.parametrize(
    "mark",
    [
        "",
        "<!-- not run: lazy -->",
        "<!-- run by: tests/no_such_test.py -->",
        "<!-- run by: tests/unit/test_docs_site.py -->",
    ],
)
def test_a_mark_that_says_nothing_is_refused(mark: str) -> None:
    assert problem_of(mark, ".".join(("a-page", "md")))


@pytest.mark.timeout(120)
def test_the_site_is_made_without_a_warning(tmp_path: Path) -> None:
    """Links and anchors that lead nowhere, and pages that no menu names, are warnings."""
    config = ROOT / "deploy" / "docs-site" / "mkdocs.yml"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "-f", config, "-d", tmp_path],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
        timeout=100, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "quickstart.html").exists()


def test_a_reader_fetches_nothing_from_others() -> None:
    config = (ROOT / "deploy" / "docs-site" / "mkdocs.yml").read_text()
    assert "font: false" in config
