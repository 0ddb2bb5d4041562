"""What a failure says of the monitor."""

from __future__ import annotations

import json

import pytest

from agentd.vmm.cloud_hypervisor_explain import describe, parse_last_event


def event(source: str, name: str) -> str:
    """As the monitor writes it."""
    timestamp = {"secs": 0, "nanos": 97141}
    body = {"timestamp": timestamp, "source": source, "event": name, "properties": None}
    return json.dumps(body, indent=2) + "\n\n"


WHOLE = event("vmm", "starting") + event("vm", "restoring")


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("", ""),
        (WHOLE, "vm restoring"),
        (WHOLE + event("vm", "restored")[:40], "vm restoring"),
        (WHOLE[60:], "vm restoring"),
        ("{}\n\n[]\n\nx\n\n", ""),
        (WHOLE + "{}\n\n", "vm restoring"),
    ],
    ids=["none", "whole", "cut_at_the_end", "cut_at_the_beginning", "nonsense", "nonsense_last"],
)
def test_the_last_whole_event_is_told(text: str, last: str) -> None:
    assert parse_last_event(text) == last


def test_a_failure_says_what_it_knows_and_no_more() -> None:
    assert describe("it hung up", "starting s-1", "", "") == "starting s-1: it hung up"
    told = describe("it hung up", "starting s-1", "panic", "vm booting")
    assert told == ("starting s-1: it hung up; the monitor said: panic; its last event: vm booting")
