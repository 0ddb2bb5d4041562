"""A body is one of the requests, or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.errors import ErrorCode, UsageError
from agentd.proxy.refusals import RefusedError
from agentd.proxy.requests import (
    Action,
    CreateTemplate,
    DeleteTemplate,
    ListTemplates,
    Owner,
    parse_request,
)

SANDBOX = "5e" * 32
OWNER = {
    "namespace": "team-a",
    "runtime_name": "python",
    "snap_start_name": "python-fast",
    "snap_start_uid": "0d0c1e3e-77a5-4b0f-9a52-d7b1f6c5a111",
    "node_name": "node-a",
}
CREATE = {
    "action": "create-template",
    "sandbox_id": SANDBOX,
    "snapshot_type": "warm_fork",
    "key": "python-ready-1",
    "owner": OWNER,
}


def encoded(members: Any) -> bytes:
    return json.dumps(members).encode()


def changed(**members: Any) -> bytes:
    """A create, otherwise; None leaves a member out."""
    return encoded({key: v for key, v in {**CREATE, **members}.items() if v is not None})


def owned(**members: Any) -> bytes:
    """A create for another owner; None leaves a member out."""
    owner = {key: value for key, value in {**OWNER, **members}.items() if value is not None}
    return changed(owner=owner)


@pytest.mark.parametrize("action", ["create-template", "template-create"])
def test_a_create_is_understood_by_both_its_names(action: str) -> None:
    assert parse_request(changed(action=action)) == CreateTemplate(
        sandbox_id=SANDBOX, key="python-ready-1", owner=Owner(**OWNER)
    )


@pytest.mark.parametrize("action", ["list-templates", "template-list"])
def test_a_list_is_understood_by_both_its_names(action: str) -> None:
    assert parse_request(encoded({"action": action})) == ListTemplates()


def test_a_delete_is_understood() -> None:
    body = encoded({"action": "delete-template", "template_id": "f0" * 16})
    assert parse_request(body) == DeleteTemplate(template_id="f0" * 16)


def test_what_a_control_plane_does_not_say_is_filled_in() -> None:
    body = changed(
        snapshot_type=None,
        owner={key: OWNER[key] for key in ("namespace", "runtime_name", "snap_start_uid")},
    )
    request = parse_request(body)
    assert isinstance(request, CreateTemplate)
    assert request.snapshot_type == "warm_fork"
    assert (request.owner.snap_start_name, request.owner.node_name) == ("", "")


@pytest.mark.parametrize(
    "action",
    [
        "template-delete",
        "template-get",
        "sandbox-run",
        "sandbox-destroy",
        "sandbox-list",
        "pool-gc",
        "pool-refill",
        "continuation-delete",
        "from-sandbox",
        "CREATE-TEMPLATE",
        " create-template",
        "create-template\n",
        "create-template\x00",
        "",
    ],
)
def test_an_action_off_the_list_is_forbidden(action: str) -> None:
    with pytest.raises(RefusedError) as caught:
        parse_request(changed(action=action))
    assert (caught.value.status, caught.value.code) == (403, "action_not_allowed")
    assert not action.strip() or action not in caught.value.message.split()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        pytest.param(b"", "not JSON", id="empty"),
        pytest.param(b"{", "not JSON", id="cut off"),
        pytest.param(b"{}{}", "not JSON", id="two objects"),
        pytest.param(b"\xff\xfe{}", "not JSON", id="not UTF-8"),
        pytest.param("{}".encode("utf-16"), "not JSON", id="another encoding"),
        pytest.param(b"[" * 100_000, "not JSON", id="too deep"),
        pytest.param(b'{"a": NaN}', "not JSON", id="not a number"),
        pytest.param(b'{"a": ' + b"9" * 10_000 + b"}", "not JSON", id="an endless number"),
        pytest.param(encoded({"a": [1] * 100}), "more members than any", id="many values"),
        pytest.param(b'{"a":' * 100 + b"1" + b"}" * 100, "more members than any", id="nested"),
        pytest.param(encoded({str(n): {} for n in range(50)}), "more members", id="many members"),
        pytest.param(b"[]", "no object", id="a list"),
        pytest.param(b'"create-template"', "no object", id="a string"),
        pytest.param(b"null", "no object", id="null"),
        pytest.param(b"{}", "no `action`", id="no action"),
        pytest.param(b'{"action": 1}', "no string", id="a number as action"),
        pytest.param(b'{"action": ["create-template"]}', "no string", id="a list as action"),
        pytest.param(changed(extra=1), "unknown field `extra`", id="unknown member"),
        pytest.param(changed(template_id="f" * 32), "template_id", id="member of another action"),
        pytest.param(owned(uid="x"), "unknown field `uid`", id="unknown member of the owner"),
        pytest.param(changed(sandbox_id=None), "sandbox_id", id="no sandbox"),
        pytest.param(changed(sandbox_id=7), "sandbox_id", id="a number as sandbox"),
        pytest.param(changed(key=None), "key", id="no key"),
        pytest.param(changed(key=["a"]), "key", id="a list as key"),
        pytest.param(changed(owner=None), "owner", id="no owner"),
        pytest.param(changed(owner="team-a"), "owner", id="a string as owner"),
        pytest.param(changed(snapshot_type="environment"), "environment", id="environment"),
        pytest.param(changed(snapshot_type="continuation"), "warm_fork", id="continuation"),
        pytest.param(changed(snapshot_type=1), "snapshot_type", id="a number as type"),
        pytest.param(owned(namespace=None), "namespace", id="no namespace"),
        pytest.param(owned(namespace=""), "namespace", id="empty namespace"),
        pytest.param(owned(namespace="team-a\n"), "namespace", id="a line's end"),
        pytest.param(owned(namespace="team/a"), "namespace", id="a slash"),
        pytest.param(owned(namespace="a" * 64), "namespace", id="a long namespace"),
        pytest.param(owned(runtime_name="Python"), "runtime_name", id="a capital"),
        pytest.param(owned(runtime_name=".."), "runtime_name", id="dots"),
        pytest.param(owned(snap_start_name="a_b"), "snap_start_name", id="an underscore"),
        pytest.param(owned(snap_start_uid=None), "snap_start_uid", id="no UID"),
        pytest.param(owned(snap_start_uid=""), "snap_start_uid", id="empty UID"),
        pytest.param(owned(snap_start_uid="a/b"), "snap_start_uid", id="UID with a slash"),
        pytest.param(owned(node_name="\ud800"), "node_name", id="half a character"),
        pytest.param(owned(**{"\ud800" * 999: "x"}), "surrogates", id="an unprintable member"),
        pytest.param(owned(**{"x" * 999: "x"}), "unknown field", id="a long member"),
    ],
)
def test_a_malformed_body_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(RefusedError) as caught:
        parse_request(body)
    assert (caught.value.status, caught.value.code) == (400, "bad_request")
    assert said in caught.value.message
    assert len(caught.value.message) < 400
    caught.value.message.encode()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"action": "list-templates", "action": "list-templates"}', id="alike"),
        pytest.param(b'{"action": "list-templates", "action": "pool-gc"}', id="the first is fine"),
        pytest.param(b'{"action": "pool-gc", "action": "list-templates"}', id="the last is fine"),
        pytest.param(b'{"\\u0061ction": "pool-gc", "action": "list-templates"}', id="in disguise"),
        pytest.param(
            b'{"action": "list-templates", "owner": {"namespace": "a", "namespace": "b"}}',
            id="further down",
        ),
    ],
)
def test_defect_97_a_member_that_comes_twice_is_refused(body: bytes) -> None:
    with pytest.raises(RefusedError, match="twice") as caught:
        parse_request(body)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "members",
    [
        pytest.param({"sandbox_id": "../../etc/x"}, id="a path"),
        pytest.param({"sandbox_id": "short"}, id="too short"),
        pytest.param({"sandbox_id": "a" * 65}, id="too long"),
        pytest.param({"sandbox_id": SANDBOX + "\n"}, id="a line's end"),
        pytest.param({"key": ""}, id="an empty key"),
        pytest.param({"key": ".."}, id="a parent directory"),
        pytest.param({"key": "a/b"}, id="a path as key"),
        pytest.param({"key": "k" * 254}, id="a long key"),
        pytest.param({"key": "\u00fc"}, id="not ASCII"),
    ],
)
def test_a_name_that_the_sandboxer_would_refuse_or_misread_is_refused(
    members: dict[str, str],
) -> None:
    with pytest.raises(UsageError) as caught:
        parse_request(changed(**members))
    assert caught.value.code is ErrorCode.NAME_INVALID


def test_a_key_with_colons_is_refused_naming_the_rule() -> None:
    """As the first form's own scheme has it: no sandboxer would restore by another spelling."""
    with pytest.raises(UsageError, match="it takes 1 to 253 of") as caught:
        parse_request(changed(key="fork:sha256-a1b2c3d4e5f6:InterpreterReady:spec-8f3a1b9c"))
    assert "fork:sha256-a1b2c3d4e5f6" in caught.value.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*CREATE, "template_id", "x"]), JSON | st.just(SANDBOX)))
def test_whatever_the_members_are_there_is_a_request_or_a_refusal(members: Any) -> None:
    members = {**members, "action": "create-template"}
    try:
        request = parse_request(encoded(members))
    except (RefusedError, UsageError):
        return
    assert request.action is Action.CREATE


@given(st.binary())
def test_whatever_bytes_come_they_are_refused(body: bytes) -> None:
    with pytest.raises(RefusedError):
        parse_request(body)
