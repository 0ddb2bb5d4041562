"""Spans reach a collector, or are lost without harm."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from agentd.tracing import Exporter, Span, new_context
from agentd.tracing import exporter as exporter_module
from tests.adapters.tracing.collector import otlp_receiver
from tests.kube import ports


class Said:
    """What the exporter reported."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, /, **details: str | int | float) -> None:
        self.events.append((event, details))

    def dropped(self, why: str) -> int:
        return sum(
            int(details["spans"])
            for event, details in self.events
            if event == "trace.dropped" and details["why"] == why
        )

    def count(self, event: str) -> int:
        return sum(name == event for name, _ in self.events)


def span(name: str = "work", *, error: str = "", **attributes: str | int | float) -> Span:
    return Span("snapstart-agentd", name, new_context(None), "", 1_000, 2_000, attributes, error)


async def until_said(said: Said, event: str) -> None:
    while not said.count(event):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_a_collector_decodes_what_is_sent() -> None:
    said = Said()
    async with otlp_receiver() as receiver:
        exporter = Exporter(receiver.endpoint + "/", {"host.name": "h"}, said)
        sent = span("work", error="died \ud800", text="a", count=3, share=0.5)
        async with exporter.running():
            exporter.offer(sent)
    got = receiver.named("work")
    assert (got.trace_id.hex(), got.span_id.hex()) == (sent.context.trace_id, sent.context.span_id)
    assert (got.start_time_unix_nano, got.end_time_unix_nano) == (1_000, 2_000)
    values = {one.key: one.value for one in got.attributes}
    assert values["text"].string_value == "a"
    assert values["count"].int_value == 3
    assert values["share"].double_value == 0.5
    assert (got.status.code, got.status.message) == (2, "died ?")
    assert receiver.resources == [{"service.name": "snapstart-agentd", "host.name": "h"}]
    assert said.events == []


async def test_a_span_that_is_not_sampled_is_not_sent() -> None:
    said = Said()
    async with otlp_receiver() as receiver:
        exporter = Exporter(receiver.endpoint, {}, said)
        kept = span()
        unsampled = replace(kept, context=replace(kept.context, is_sampled=False))
        async with exporter.running():
            exporter.offer(unsampled)
    assert (receiver.requests, said.events) == (0, [])


async def test_a_collector_that_is_away_costs_its_spans_and_is_told_once() -> None:
    said = Said()
    exporter = Exporter(f"http://127.0.0.1:{ports.choose(1)[0]}", {}, said)
    async with exporter.running():
        exporter.offer(span())
        await until_said(said, "trace.export.failed")
        exporter.offer(span())
    assert said.dropped("unsent") == 2
    assert said.count("trace.export.failed") == 1


async def test_a_collector_that_comes_back_gets_what_is_new() -> None:
    said = Said()
    async with otlp_receiver() as receiver:
        receiver.status = 503
        exporter = Exporter(receiver.endpoint, {}, said)
        async with exporter.running():
            exporter.offer(span("lost"))
            await until_said(said, "trace.export.failed")
            receiver.status = 200
            exporter.offer(span("kept"))
            await until_said(said, "trace.export.resumed")
    assert receiver.names() == ["kept"]
    assert said.dropped("unsent") == 1


async def test_a_collector_that_hangs_holds_up_neither_offers_nor_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exporter_module, "_LAST_S", 0.5)
    said = Said()
    async with otlp_receiver() as receiver:
        receiver.goes_on.clear()
        exporter = Exporter(receiver.endpoint, {}, said)
        async with exporter.running():
            exporter.offer(span())
            while not receiver.requests:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            for _ in range(5_000):
                exporter.offer(span())
    assert said.dropped("full") == 5_000 - 2048
    assert said.dropped("unsent") == 2048 + 1


async def test_what_a_collector_rejects_is_counted() -> None:
    said = Said()
    async with otlp_receiver() as receiver:
        receiver.rejects = 1
        exporter = Exporter(receiver.endpoint, {}, said)
        async with exporter.running():
            exporter.offer(span())
    assert said.dropped("rejected") == 1


@pytest.mark.parametrize("count", [255, 256, 257, 1000], ids=str)
async def test_every_span_is_sent_once_in_batches(count: int) -> None:
    said = Said()
    async with otlp_receiver() as receiver:
        exporter = Exporter(receiver.endpoint, {}, said)
        async with exporter.running():
            for number in range(count):
                exporter.offer(span(str(number)))
    assert receiver.names() == [str(number) for number in range(count)]
    assert receiver.requests == -(-count // 256)
