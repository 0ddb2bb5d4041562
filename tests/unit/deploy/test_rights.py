"""The roles of the manifests grant what deploy/rbac.yaml lists, with a reason for what is ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.cluster.rights_used import ELSEWHERE
from tests.kube.rights import (
    Listed,
    Right,
    Row,
    read_list,
    read_roles,
    rights_granted,
    rights_listed,
    table,
)

TESTS = Path(__file__).parents[2]
LISTED = read_list()
ROWS = [
    pytest.param(row, id=f"{role.kind} {role.name}: {row.resource} {'+'.join(row.names)}".strip())
    for role in LISTED
    for row in role.rights
]


def test_every_right_that_a_role_grants_is_listed() -> None:
    assert rights_granted(read_roles()) - rights_listed(LISTED) == set()


def test_every_right_that_is_listed_is_granted_by_a_role() -> None:
    assert rights_listed(LISTED) - rights_granted(read_roles()) == set()


@pytest.mark.parametrize("row", ROWS)
def test_what_differs_from_the_design_has_its_reason(row: Row) -> None:
    assert set(row.left_out) <= set(row.design)
    assert not set(row.added) & set(row.design)
    assert bool(row.why) == bool(row.left_out or row.added)
    assert row.design or row.added


def test_a_right_is_listed_once() -> None:
    rows = [
        (one.role, row.group, row.resource, name)
        for one in LISTED
        for row in one.rights
        for name in row.names or ("",)
    ]
    assert len(rows) == len(set(rows))


def test_no_role_reads_secrets_of_the_whole_cluster_or_holds_a_wildcard() -> None:
    granted = rights_granted(read_roles())
    for right in granted:
        assert "*" not in (right.group, right.resource, right.verb)
        if right.resource == "secrets":
            assert right.role.kind == "Role"
            assert right.name or right.verb == "create"


@pytest.mark.parametrize("role", LISTED, ids=lambda role: f"{role.kind} {role.name}")
def test_no_role_may_give_itself_more(role: Listed) -> None:
    rows = [row for row in role.rights if row.granted]
    assert not [row for row in rows if row.group == "rbac.authorization.k8s.io"]
    assert not [row for row in rows if set(row.granted) & {"escalate", "bind", "impersonate"}]


@pytest.mark.parametrize("right", ELSEWHERE, ids=lambda one: f"{one.resource} {one.verb}")
def test_what_whole_runs_do_not_use_is_granted_and_used_by_a_test(right: Right) -> None:
    assert right in rights_granted(read_roles())
    path, _, name = ELSEWHERE[right].partition("::")
    assert f"def {name}(" in (TESTS / path).read_text()


def test_the_documentation_shows_the_list() -> None:
    assert table(LISTED) in (TESTS.parent / "docs" / "crds.md").read_text()
