"""A run that did not show what it promises says so."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agentd.wire.demo import Machine
from bench.cluster.leaks import Leaks
from bench.cluster.result import (
    ClusterResult,
    Counts,
    Outage,
    Rebuild,
    Reply,
    Session,
    Snapshot,
)
from bench.cluster.show import all_tables, starts_table
from bench.cluster.verdict import find_surprises

MACHINE = Machine(kernel="6", cpu="c", cores=2, memory_mib=1, qemu_version="7", python="3")
READY = Counts(
    at_s=1.0, phase="Ready", target=2, creating=0, ready=2, failed=0, unavailable=0,
    rebuilding=False,
)  # fmt: skip


def session(name: str, **changes: Any) -> Session:
    reply = Reply(boot_id=f"boot-{name}", session_id=f"session-{name}", hostname=name)
    one = Session(
        name=name, node="node-a", restored=True, reason="restored_intent", key="k1",
        ready_ms=400.0, reply_ms=900.0, reply=reply,
    )  # fmt: skip
    return msgspec.structs.replace(one, **changes)


COLD = session("c", restored=False, reason="not_ready", key="", reply_ms=9000.0)
GOOD = ClusterResult(
    kubernetes="v1.35.4",
    sandbox_version="v1beta1",
    machine=MACHINE,
    snapshot=Snapshot(phase="Ready", key="k2", ready_s=20.0, counts=(READY,)),
    sessions=(session("a"), session("b")),
    refills=(session("p"),),
    rebuild=Rebuild(
        old_key="k1",
        new_key="k2",
        rebuilt_s=30.0,
        meanwhile=(COLD,),
        after=(session("d", key="k2"),),
    ),
    outage=Outage(
        node="node-b", node_ready="Unknown", machines=2, alive=2, answered=2, noticed_s=30.0,
        recovered_s=2.0, same=2, others=1,
    ),
    leaks=Leaks(),
)  # fmt: skip


def changed(member: str, **changes: Any) -> ClusterResult:
    part = msgspec.structs.replace(getattr(GOOD, member), **changes)
    return msgspec.structs.replace(GOOD, **{member: part})


def test_a_good_run_has_no_surprises() -> None:
    assert find_surprises(GOOD) == []


COLD_NOW = {"restored": False, "reason": "store_timeout"}
BAD: dict[str, tuple[ClusterResult, str]] = {
    "the snapshot failed": (changed("snapshot", phase="Failed"), "the snapshot ended Failed"),
    "an artifact was forgotten": (
        changed("snapshot", left=("node-a: k1",)),
        "node-a: k1 outlived the snapshot",
    ),
    "counts do not sum up": (
        changed("snapshot", counts=(msgspec.structs.replace(READY, ready=1),)),
        "do not sum up",
    ),
    "a session was cold": (
        msgspec.structs.replace(GOOD, sessions=(session("a", **COLD_NOW),)),
        "a session, a, started cold: store_timeout",
    ),
    "a refill was cold": (
        msgspec.structs.replace(GOOD, refills=(session("p", **COLD_NOW),)),
        "a Sandbox of the pool, p, started cold",
    ),
    "the old set served an edited template": (
        changed("rebuild", meanwhile=(COLD, session("e", key="k1"))),
        "e was to restore from what the template was",
    ),
    "nothing was cold": (changed("rebuild", meanwhile=()), "no session started cold"),
    "nothing was rebuilt": (changed("rebuild", new_key="k1"), "the key of the one before"),
    "the cluster saw nothing": (changed("outage", node_ready="True"), "took node-b for ready"),
    "nobody was there": (changed("outage", machines=0, alive=0, same=0), "shows nothing"),
    "machines ended": (changed("outage", alive=1), "1 machines ended with the agentd"),
    "sessions were lost": (changed("outage", same=0), "2 sessions of node-b were not carried on"),
    "an identity is shared": (
        msgspec.structs.replace(GOOD, sessions=(session("a"), session("a"))),
        "two sessions have the same boot_id",
    ),
    "something is left": (changed("leaks", files=("/tmp/x",)), "1 things are left"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_run_tells_that(case: str) -> None:
    result, text = BAD[case]
    assert any(text in one for one in find_surprises(result)), find_surprises(result)


def test_every_row_fits_its_table() -> None:
    for table in all_tables(GOOD):
        assert table.rows
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert table.numeric <= set(table.columns)


def test_restored_is_compared_with_cold_where_there_is_both() -> None:
    assert [row[:2] for row in starts_table(GOOD).rows] == [("restored", "3"), ("cold", "1")]
    alone = changed("rebuild", meanwhile=())
    assert [row[0] for row in starts_table(alone).rows] == ["restored"]


def test_a_result_survives_json() -> None:
    raw = msgspec.json.encode(GOOD)
    assert msgspec.json.decode(raw, type=ClusterResult) == GOOD
    members = {"snapshot", "sessions", "refills", "rebuild", "outage", "leaks"}
    assert members <= set(msgspec.json.decode(raw))
