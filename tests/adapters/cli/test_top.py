"""What `snapctl top` shows where a page server serves machines, and where none does."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner

from agentd.cli.snapctl import snapctl
from tests.fakes.local_api import FakeLocalApi

PAGING = ["FAULTS", "PREFETCHED", "COVERED", "STALLS"]


def paged(vm: str, **more: Any) -> dict[str, Any]:
    return {
        "vm": vm, "protocol": "firecracker", "state": "serving", "pid": 4242, "method": "demand",
        "why": "a test", "reason": "", "pages": 131072, "faults": 21, "prefetched": 8000,
        "copied": 8021, "shared": 0, "zeroed": 0, "removed": 0, "working_set": 8000,
        "covered": 0.9974, "stalls": 2, "max_stall_us": 11000, **more,
    }  # fmt: skip


def lines(daemon: FakeLocalApi, *args: str) -> list[list[str]]:
    """The words of each line below the headline."""
    result = CliRunner().invoke(snapctl, ["top", "--socket", str(daemon.socket_path), *args])
    assert result.exit_code == 0, result.output
    return [line.split() for line in result.stdout.splitlines()[1:]]


def test_where_no_page_server_answers_there_is_nothing_of_it(daemon: FakeLocalApi) -> None:
    head, row = lines(daemon)
    assert head[-1] == "S", "CPU S is the last column"
    assert row[-1] == "1.5"


def test_one_that_serves_nobody_is_as_none(daemon: FakeLocalApi) -> None:
    daemon.paged = []
    head, _ = lines(daemon)
    assert "FAULTS" not in head


def test_a_session_shows_how_its_memory_got_there(daemon: FakeLocalApi) -> None:
    daemon.paged = [paged("s1")]
    head, row = lines(daemon)
    assert head[-4:] == PAGING
    assert row[-4:] == ["21", "8000", "99.7%", "2"]


def test_a_session_that_maps_a_file_has_dashes_beside_one_that_is_served(
    daemon: FakeLocalApi,
) -> None:
    daemon.add_session("s2")
    daemon.paged = [paged("s2", covered=None, faults=0, prefetched=0, stalls=0)]
    _, first, second = lines(daemon)
    assert first[-4:] == ["-"] * 4
    assert second[-4:] == ["0", "0", "-", "0"]


def test_a_machine_that_is_no_session_has_a_row_of_its_own(daemon: FakeLocalApi) -> None:
    daemon.paged = [paged("sandbox-7", protocol="kuasar")]
    _, session, other = lines(daemon)
    assert session[0] == "s1"
    assert other == ["sandbox-7", "-", "kuasar", "serving", *["-"] * 5, "21", "8000", "99.7%", "2"]


def test_json_has_every_count(daemon: FakeLocalApi) -> None:
    daemon.paged = [paged("s1")]
    result = CliRunner().invoke(snapctl, ["top", "--socket", str(daemon.socket_path), "--json"])
    document = json.loads(result.stdout)
    assert document["pager"]["machines"] == [paged("s1")]
    daemon.paged = None
    result = CliRunner().invoke(snapctl, ["top", "--socket", str(daemon.socket_path), "--json"])
    assert json.loads(result.stdout)["pager"] is None
