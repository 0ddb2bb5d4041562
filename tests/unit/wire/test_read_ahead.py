"""The list of pages to read ahead, as a file."""

from __future__ import annotations

import msgspec
import pytest

from agentd.wire.read_ahead import (
    FORMAT_VERSION,
    PageRun,
    ReadAhead,
    ReadAheadDamagedError,
    decode,
    encode,
)

LIST = ReadAhead(FORMAT_VERSION, "some-id", 1 << 20, 3, (PageRun(0, 4), PageRun(9, 1)))


def test_what_is_written_is_read_back() -> None:
    assert decode(encode(LIST)) == LIST


def test_runs_are_pairs_of_numbers_in_the_file() -> None:
    assert msgspec.json.decode(encode(LIST))["runs"] == [[0, 4], [9, 1]]


def changed(**members: object) -> bytes:
    return msgspec.json.encode({**msgspec.json.decode(encode(LIST)), **members})


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(encode(LIST)[:-9], id="cut"),
        pytest.param(changed(format_version=FORMAT_VERSION + 1), id="a newer format"),
        pytest.param(changed(surprise=1), id="an unknown member"),
        pytest.param(changed(runs=[[0, 4, 1]]), id="a run of three numbers"),
        pytest.param(changed(runs=[[0, -4]]), id="a run of negative length"),
        pytest.param(changed(runs=[[0, 0]]), id="a run of nothing"),
        pytest.param(changed(runs=[[-1, 4]]), id="a run before the memory"),
        pytest.param(changed(runs=[[9, 1], [0, 4]]), id="runs out of order"),
        pytest.param(changed(runs=[[0, 4], [3, 1]]), id="runs that overlap"),
        pytest.param(changed(runs="all"), id="no runs"),
        pytest.param(b"\xff\xfe", id="no text"),
    ],
)
def test_what_nobody_writes_is_refused(data: bytes) -> None:
    with pytest.raises(ReadAheadDamagedError):
        decode(data)
