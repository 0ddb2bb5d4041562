"""A pool's status is read as far as it matters, and not guessed."""

from __future__ import annotations

from typing import Any

import pytest

from agentd.errors import ErrorCode, PeerError
from agentd.kuasar.client import PoolStatus
from agentd.kuasar.pool import pool_status

USED = {"template_id": "t1", "refs": 2}


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ({"total": 0}, PoolStatus(0, {})),
        ({"total": 3, "active_shared_refs": []}, PoolStatus(3, {})),
        ({"total": 1, "active_shared_refs": [USED], "hit_rate": 0.5}, PoolStatus(1, {"t1": 2})),
    ],
    ids=["empty", "idle", "in use"],
)
def test_a_status_is_read(reply: dict[str, Any], expected: PoolStatus) -> None:
    assert pool_status("asking", reply) == expected


@pytest.mark.parametrize(
    "reply",
    [
        {},
        {"total": None},
        {"total": "1"},
        {"total": 1.5},
        {"total": 1, "active_shared_refs": None},
        {"total": 1, "active_shared_refs": [7]},
        {"total": 1, "active_shared_refs": [{"refs": 1}]},
        {"total": 1, "active_shared_refs": [{"template_id": "t", "refs": "many"}]},
        {"total": None, "pad": "x" * 100_000},
    ],
    ids=lambda reply: str(reply)[:40],
)
def test_what_is_no_status_is_an_error(reply: dict[str, Any]) -> None:
    with pytest.raises(PeerError, match="asking: the Kuasar sandboxer sent") as caught:
        pool_status("asking", reply)
    assert caught.value.code is ErrorCode.PROVIDER_PROTOCOL
    assert len(str(caught.value)) < 1000
