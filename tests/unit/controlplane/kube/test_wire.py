"""Answers are decoded, or refused; refusals become errors by whose move it is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.errors import (
    AlreadyExistsError,
    ConflictError,
    ControlPlaneError,
    ExpiredError,
    ForbiddenError,
    NotFoundError,
    PeerError,
    RejectedError,
    UnavailableError,
)
from controlplane.kube import wire
from controlplane.kube.api import WatchKind
from controlplane.kube.failures import status_error
from controlplane.kube.resource import CONFIG_MAPS


def _status(code: int, reason: str = "", **more: Any) -> bytes:
    status = {"kind": "Status", "code": code, "reason": reason, "message": "because", **more}
    return json.dumps(status).encode()


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (400, "BadRequest", RejectedError),
        (401, "Unauthorized", ForbiddenError),
        (403, "Forbidden", ForbiddenError),
        (404, "NotFound", NotFoundError),
        (405, "MethodNotAllowed", RejectedError),
        (409, "AlreadyExists", AlreadyExistsError),
        (409, "Conflict", ConflictError),
        (410, "Expired", ExpiredError),
        (410, "Gone", ExpiredError),
        (413, "RequestEntityTooLarge", RejectedError),
        (422, "Invalid", RejectedError),
        (429, "TooManyRequests", UnavailableError),
        (500, "InternalError", UnavailableError),
        (503, "ServiceUnavailable", UnavailableError),
        (504, "Timeout", UnavailableError),
        (302, "", PeerError),
    ],
)
def test_status_becomes_an_error(code: int, reason: str, expected: type[ControlPlaneError]) -> None:
    for http_code in (code, 0):
        error = status_error("get pods x/p", http_code, _status(code, reason))
        assert type(error) is expected
        assert "get pods x/p" in str(error)
        assert "because" in str(error)


@pytest.mark.parametrize(
    ("body", "header", "expected"),
    [
        (_status(429, details={"retryAfterSeconds": 3}), "", 3.0),
        (_status(429), "7", 7.0),
        (_status(429), "Wed, 21 Oct 2026 07:28:00 GMT", 0.0),
        (_status(429, details={"retryAfterSeconds": 1e9}), "", 60.0),
        (_status(429, details={"retryAfterSeconds": -5}), "", 0.0),
        (b"<html>busy</html>", "2", 2.0),
    ],
)
def test_the_server_may_ask_for_a_pause(body: bytes, header: str, expected: float) -> None:
    error = status_error("list pods", 429, body, header)
    assert isinstance(error, UnavailableError)
    assert error.delay_s == expected


def test_a_proxys_answer_is_quoted_shortly() -> None:
    error = status_error("list pods", 502, b"\xff<html>" + b"x" * 10_000)
    assert isinstance(error, UnavailableError)
    assert len(str(error)) < 400


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"type":"ADDED"}',
        b'{"type":"NEW","object":{}}',
        b'{"type":"ADDED","object":[]}',
        b'{"type":"ADDED","object":{"metadata":3}}',
    ],
)
def test_garbage_in_a_watch_is_the_peers_fault(line: bytes) -> None:
    with pytest.raises(PeerError):
        wire.decode_event("watch pods", line)


def test_an_error_event_is_what_its_status_says() -> None:
    with pytest.raises(ExpiredError):
        wire.decode_event("watch", b'{"type":"ERROR","object":' + _status(410, "Expired") + b"}")
    with pytest.raises(PeerError):
        wire.decode_event("watch", b'{"type":"ERROR","object":{}}')


def test_events_carry_their_object() -> None:
    event = wire.decode_event("watch", b'{"type":"BOOKMARK","object":{"metadata":{"a":1}}}')
    assert event.kind is WatchKind.BOOKMARK
    assert event.body == {"metadata": {"a": 1}}


def test_items_of_a_list_get_its_kind() -> None:
    body = {"metadata": {"resourceVersion": "5", "continue": "c"}, "items": [{"metadata": {}}]}
    page = wire.decode_page("list", CONFIG_MAPS, json.dumps(body).encode())
    assert (page.resource_version, page.next_page) == ("5", "c")
    assert page.items[0]["kind"] == "ConfigMap"
    empty = wire.decode_page(
        "list", CONFIG_MAPS, b'{"metadata":{"resourceVersion":"5"},"items":null}'
    )
    assert empty.items == ()


def test_a_list_without_a_version_is_refused() -> None:
    with pytest.raises(PeerError):
        wire.decode_page("list", CONFIG_MAPS, b'{"metadata":{},"items":[]}')


@given(
    st.lists(
        st.binary(min_size=1, max_size=9).filter(lambda line: line.strip() and b"\n" not in line)
    ),
    st.lists(st.integers(1, 7)),
)
def test_lines_survive_any_cutting(lines: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    buffer, found, at = wire.LineBuffer("watch", 100), list[bytes](), 0
    for size in [*cuts, len(stream)]:
        found += buffer.feed(stream[at : at + size])
        at += size
    assert found == lines
    assert not buffer.has_rest


def test_a_line_without_end_is_refused() -> None:
    buffer = wire.LineBuffer("watch", 10)
    buffer.feed(b"1234567890")
    with pytest.raises(PeerError):
        buffer.feed(b"1")


def test_the_preferred_version_is_first() -> None:
    body = {
        "preferredVersion": {"version": "v1beta1"},
        "versions": [{"version": "v1alpha1"}, {"version": "v1beta1"}],
    }
    assert wire.decode_versions("discover", json.dumps(body).encode()) == ("v1beta1", "v1alpha1")
