"""Repeated reports raise a count; floods are held back; nothing grows without bound."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from controlplane.kube.events import EventLog, EventPolicy, ObjectRef, event_body, event_patch

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ABOUT = ObjectRef("v1", "Pod", "p", "x", "u1", "5")


def _record(
    log: EventLog, message: str = "m", after_s: float = 0, about: ObjectRef = ABOUT
) -> bool:
    return log.record(about, "Normal", "R", message, NOW + timedelta(seconds=after_s))


def _drain(log: EventLog) -> list[tuple[int, bool]]:
    found = []
    while (item := log.next()) is not None:
        found.append((item[1].count, item[1].is_stored))
        log.stored(item[0])
    return found


def test_a_repetition_counts_up_the_stored_event() -> None:
    log = EventLog(EventPolicy())
    _record(log)
    assert _drain(log) == [(1, False)]
    _record(log, after_s=599)
    assert _drain(log) == [(2, True)]


def test_a_repetition_long_after_is_an_event_of_its_own() -> None:
    log = EventLog(EventPolicy())
    _record(log)
    key, first = log.next() or (None, None)
    assert key
    assert first
    log.stored(key)
    _record(log, after_s=601)
    _, second = log.next() or (None, None)
    assert second
    assert (second.count, second.is_stored) == (1, False)
    assert second.name != first.name


def test_repetitions_before_the_first_write_are_one_write() -> None:
    log = EventLog(EventPolicy())
    for _ in range(3):
        _record(log)
    assert _drain(log) == [(3, False)]


def test_the_version_of_the_object_makes_no_other_event() -> None:
    log = EventLog(EventPolicy())
    _record(log)
    _record(log, about=ObjectRef("v1", "Pod", "p", "x", "u1", "6"))
    assert _drain(log) == [(2, False)]


def test_an_event_that_expired_is_written_anew() -> None:
    log = EventLog(EventPolicy())
    _record(log)
    found = log.next()
    assert found
    log.stored(found[0])
    log.stored(found[0], is_stored=False)
    assert _drain(log) == [(1, False)]


def test_an_object_that_reports_all_the_time_is_held_to_a_rate() -> None:
    log = EventLog(EventPolicy(burst=3, refill_s=100.0))
    taken = [_record(log, message=str(n)) for n in range(5)]
    assert taken == [True, True, True, False, False]
    assert log.dropped == 2
    assert _record(log, message="later", after_s=101)
    assert _record(log, message="another object", about=ObjectRef("v1", "Pod", "q", "x", "u2"))


def test_what_is_pending_and_what_is_remembered_is_bounded() -> None:
    policy = EventPolicy(pending_max=5, memory_max=10)
    log = EventLog(policy)
    for n in range(50):
        _record(log, about=ObjectRef("v1", "Pod", f"p{n}", "x", f"u{n}"))
    assert (log.dropped, len(_drain(log))) == (45, 5)
    for n in range(50):
        _record(log, about=ObjectRef("v1", "Pod", f"p{n}", "x", f"u{n}"))
        _drain(log)
    assert len(log._reports) <= 10
    assert len(log._buckets) <= 10


def test_the_body_is_a_core_event() -> None:
    log = EventLog(EventPolicy())
    log.record(ObjectRef("v1", "Node", "n" * 300, uid="u"), "Warning", "R", "m" * 2000, NOW)
    found = log.next()
    assert found
    body = event_body(found[1], "program", "host")
    assert body["metadata"]["namespace"] == "default"
    assert len(body["metadata"]["name"]) <= 253
    assert len(body["message"]) == 1024
    assert body["firstTimestamp"] == body["lastTimestamp"] == "2026-01-01T00:00:00Z"
    assert "namespace" not in body["involvedObject"]
    assert event_patch(found[1]).keys() == {"count", "lastTimestamp"}
