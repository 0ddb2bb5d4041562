"""Templates are told apart by who ordered them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from agentd.kuasar.client import KuasarTemplate
from agentd.node.sweep import choose_suspects
from agentd.providers.driver import LocalArtifact, SnapshotOwner
from agentd.proxy.refusals import RefusedError
from agentd.proxy.requests import CreateTemplate, Owner
from agentd.proxy.templates import (
    check_gone,
    check_node,
    check_owner,
    choose_ids,
    fingerprint,
    is_own,
    runtime_of,
)
from controlplane.api.types import SnapshotMode

CLUSTER = "7b0c1f7e-cluster"
OURS = SnapshotOwner(f"snapstart/{CLUSTER}", "team-a", "python-fast", "uid-1")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def artifact(
    key: str, owner: SnapshotOwner | None = OURS, made_of: str = "v1/s/r"
) -> LocalArtifact:
    long_ago = NOW - timedelta(days=9)
    return LocalArtifact(key, made_of, SnapshotMode.FORK, True, 0, long_ago, owner)


def listed(key: str, template_id: str = "", at: int | None = None) -> KuasarTemplate:
    return KuasarTemplate(key, SnapshotMode.FORK, template_id, at)


def order(sandbox_id: str = "a" * 64) -> CreateTemplate:
    owner = Owner(namespace="team-a", runtime_name="python.v3", snap_start_uid="uid-1")
    return CreateTemplate(sandbox_id=sandbox_id, key="k", owner=owner)


def test_what_it_was_made_of_names_sandbox_and_runtime() -> None:
    assert fingerprint(order("a" * 64)) != fingerprint(order("b" * 64))
    assert runtime_of(fingerprint(order())) == "python.v3"


@pytest.mark.parametrize("text", ["", "sha256:abc", "v1/only", "v1/a/b/c", "v2/a/b"])
def test_a_hash_of_another_kind_names_no_runtime(text: str) -> None:
    assert runtime_of(text) == ""


def test_defect_93_only_what_this_installation_ordered_is_its_own() -> None:
    elsewhere = SnapshotOwner("snapstart/another", "team-a", "python-fast", "uid-1")
    second_form = SnapshotOwner(CLUSTER, "team-a", "python-fast", "uid-1")
    owners = {"a": OURS, "b": elsewhere, "c": second_form, "d": None}
    found = [artifact(key, owner) for key, owner in owners.items()]
    assert [one.key for one in found if is_own(one, OURS.cluster)] == ["a"]


def test_defect_93_the_sweep_for_sandboxsnapshots_leaves_them_alone() -> None:
    second_form = artifact("b", SnapshotOwner(CLUSTER, "team-a", "x", "uid-2"))
    suspects = choose_suspects([artifact("a"), second_form], CLUSTER, NOW)
    assert [one.key for one, _ in suspects] == ["b"]


# -- ids ------------------------------------------------------------------------------------------


def test_an_id_is_the_sandboxers_of_the_newest() -> None:
    found = [
        listed("k", "old", 1),
        listed("k", "new", 3),
        listed("k", "mid", 2),
        listed("x", "y", 9),
    ]
    assert choose_ids([artifact("k")], found) == {"k": "new"}


def test_an_id_that_is_not_told_is_made_of_the_order() -> None:
    made = [artifact("k", made_of=text) for text in ("v1/s1/r", "v1/s2/r")]
    first, second = (choose_ids([one], [listed("k")])["k"] for one in made)
    assert re.fullmatch(r"[0-9a-f]{32}", first)
    assert first != second
    assert choose_ids([made[0]], [listed("k"), listed("k")]) == {"k": first}


def test_ids_of_several_do_not_collide() -> None:
    found = [artifact("a"), artifact("b")]
    assert len(set(choose_ids(found, []).values())) == 2


# -- what stays -----------------------------------------------------------------------------------


def test_a_key_of_another_owner_stays_taken() -> None:
    check_owner(None, OURS)
    check_owner(artifact("k"), OURS)
    for other in (None, SnapshotOwner(CLUSTER, "team-a", "python-fast", "uid-1")):
        with pytest.raises(RefusedError, match="another owner") as caught:
            check_owner(artifact("k", other), OURS)
        assert caught.value.status == 409


def test_an_id_that_nobody_knows_is_gone() -> None:
    check_gone("t1", [artifact("k")], [listed("k", "t2"), listed("k")])


def test_what_somebody_else_made_stays() -> None:
    with pytest.raises(RefusedError) as caught:
        check_gone("t1", [artifact("k")], [listed("x", "t1")])
    assert (caught.value.status, caught.value.code) == (403, "not_owned")


def test_what_was_superseded_is_not_told_gone_while_it_is_there() -> None:
    with pytest.raises(RefusedError) as caught:
        check_gone("t1", [artifact("k")], [listed("k", "t1", 1), listed("k", "t2", 2)])
    assert (caught.value.status, caught.value.code) == (409, "template_in_use")


def test_defect_96_an_order_for_another_node_is_refused() -> None:
    check_node(order().owner, "node-a")
    owner = Owner(namespace="a", runtime_name="r", snap_start_uid="u", node_name="node-b")
    check_node(owner, "node-b")
    with pytest.raises(RefusedError, match="node-b") as caught:
        check_node(owner, "node-a")
    assert caught.value.status == 400
