"""The pages of docs/reference/ are what the code says."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.docs import meanings, reasons
from tests.docs.events import condition_reasons, event_reasons, log_events
from tests.docs.reference import MAKERS, PAGES, unit_of


@pytest.mark.parametrize("name", MAKERS)
def test_a_page_that_is_committed_is_what_the_code_makes(name: str) -> None:
    assert (PAGES / name).read_text() == MAKERS[name](), "run `make docs-reference`"


def test_every_page_there_is_made_of_the_code() -> None:
    assert {file.name for file in PAGES.glob("*.md")} == set(MAKERS)


@pytest.mark.parametrize("name", MAKERS)
def test_nothing_stands_there_without_its_meaning(name: str) -> None:
    """What the code does not explain has to be explained in the code."""
    if name == "crds.md":
        return  # nested fields of Kubernetes' own types explain themselves
    rows = [line for line in MAKERS[name]().splitlines() if line.startswith("| `")]
    assert rows
    assert [row for row in rows if row.rstrip(" |").endswith("|") or row.endswith("|  |")] == []


def test_units_are_those_of_the_names() -> None:
    assert unit_of("snapstart_template_bytes") == "bytes"
    assert unit_of("snapstart_sessions") == "count"


@pytest.mark.parametrize(
    ("package", "said"),
    [("agentd", meanings.AGENTD), ("controlplane", meanings.CONTROL_PLANE)],
    ids=["agentd", "control plane"],
)
def test_every_event_of_the_log_has_its_meaning(package: str, said: Mapping[str, str]) -> None:
    assert set(said) == set(log_events(package))


def test_every_reason_has_its_meaning() -> None:
    assert set(reasons.EVENTS) == event_reasons()
    assert set(reasons.CONDITIONS) == condition_reasons()


def test_what_is_noted_by_one_of_two_levels_has_both() -> None:
    assert log_events("agentd")["http.refused"].levels == {"debug", "warning"}
