"""What does agentd add to a call of Kuasar's sandboxer?"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from bench.kuasar.__main__ import sandboxer
from bench.kuasar.floor import RawClient
from bench.kuasar.measure import grpc_calls, json_calls
from bench.suites.series import Series

ABOUT = {"machine_kind": "stand-in", "unit": "us"}


@pytest.fixture
def directory() -> Iterator[Path]:
    """The sockets of a stand-in sandboxer, a process of its own."""
    with sandboxer() as path:
        yield path


@pytest.mark.budget(quick_s=5, quick=300, full=3000)
def test_the_json_form_in_turn_with_a_client_in_c(series: Series, directory: Path) -> None:
    """List all templates; from before socket(2) to the end of the reply's last byte, decoded.

    kuasar.json.floor: a client in C that reads the reply and does not decode it.
    """
    with (
        RawClient(directory / "json" / "admin.sock") as raw,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        ours, floor = series.once(lambda: runner.run(json_calls(directory, raw, series.wanted)))
    series.also_all("kuasar.json", ours, **ABOUT)
    series.also_all("kuasar.json.floor", floor, **ABOUT)


@pytest.mark.budget(quick_s=8, quick=300, full=3000)
def test_the_grpc_form_in_turn_with_plain_grpc(series: Series, directory: Path) -> None:
    """List all snapshots; from the call to its decoded answer, on a connection of its own.

    kuasar.grpc.floor: grpc.aio alone.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        ours, floor = series.once(lambda: runner.run(grpc_calls(directory, series.wanted)))
    series.also_all("kuasar.grpc", ours, **ABOUT)
    series.also_all("kuasar.grpc.floor", floor, **ABOUT)
