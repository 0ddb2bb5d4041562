"""Samples become a flame graph; what is missing is named."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from agentd.errors import ConfigError, UsageError
from bench.profile.__main__ import profile
from bench.profile.flame import Box, draw, plan_boxes
from bench.profile.folding import fold
from bench.profile.recorder import Recorder

SCRIPT = """\
agentd
\tffffffff8136d279 do_sys_open
\t           8fdd4 open64+0x54
\t    5f54504d4f52 [unknown]
\t    5f54504d4f53 [unknown]

agentd
\tffffffff8136d279 do_sys_open
\t           8fdd4 open64+0x54
\t    5f54504d4f52 [unknown]

qemu system
\t           8fdd4 main
"""


def test_equal_stacks_are_counted_from_the_outside_in() -> None:
    assert fold(SCRIPT.splitlines()) == {
        ("agentd", "[unknown]", "open64", "do_sys_open"): 2,
        ("qemu system", "main"): 1,
    }


def test_a_caller_is_as_wide_as_all_it_called() -> None:
    boxes = plan_boxes({("a", "b"): 2, ("a", "c"): 3, ("a",): 1})
    assert boxes == [
        Box("all", 0, 0, 6),
        Box("a", 1, 0, 6),
        Box("b", 2, 0, 2),
        Box("c", 2, 2, 3),
    ]


def test_a_graph_is_a_document_that_tells_each_share() -> None:
    document = draw({("<module>", "spam & eggs"): 3, ("<module>",): 1}, "a <title>")
    titles = [one.text for one in ElementTree.fromstring(document).iter() if "title" in one.tag]
    assert titles == [
        "all: 4 samples, 100.0 %",
        "<module>: 4 samples, 100.0 %",
        "spam & eggs: 3 samples, 75.0 %",
    ]


def test_a_graph_of_nothing_is_a_document_too() -> None:
    assert ElementTree.fromstring(draw({}, "nothing")).tag.endswith("svg")


def test_a_tool_that_is_not_there_is_named_with_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(ConfigError, match="no such program") as caught:
        Recorder("perf", tmp_path / "graph.svg")
    assert "linux-perf" in caught.value.hint


def test_a_series_that_is_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(UsageError, match="no such series") as caught:
        profile("nonsense", "perf", 1.0)
    assert "fork-loop, execute-loop" in caught.value.hint
