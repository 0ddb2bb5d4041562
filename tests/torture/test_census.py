"""Descriptors are counted such that a connection about to close is no leak, and hides none."""

from __future__ import annotations

import asyncio
import os
from collections import Counter

import pytest

from tests.torture.census import always_open, left_open, list_fds


@pytest.fixture
async def closing() -> asyncio.Task[None]:
    """A descriptor of ours that is open for a moment."""
    fd = os.eventfd(0)

    async def close() -> None:
        await asyncio.sleep(0.1)
        os.close(fd)

    return asyncio.create_task(close())


@pytest.mark.timeout(20)
async def test_what_closes_meanwhile_is_not_counted(closing: asyncio.Task[None]) -> None:
    now = list_fds(os.getpid())
    found = await always_open(os.getpid(), 0.5)
    await closing
    assert (now - found).total() == 1


@pytest.mark.timeout(20)
async def test_what_closes_a_little_later_is_not_left_open(closing: asyncio.Task[None]) -> None:
    before = list_fds(os.getpid()) - Counter({"anon_inode": 1})
    assert await left_open(os.getpid(), before) == {}
    await closing


@pytest.mark.timeout(20)
async def test_what_stays_is_left_open() -> None:
    before = list_fds(os.getpid())
    fd = os.eventfd(0)
    try:
        assert (await left_open(os.getpid(), before, patience_s=0.2)).total() == 1
    finally:
        os.close(fd)
