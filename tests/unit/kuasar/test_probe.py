"""What three sockets show decides what a node's sandboxer is."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from agentd.errors import ErrorCode, PeerError, SnapStartError, TransientError
from agentd.kuasar.client import Form
from agentd.kuasar.failures import kuasar_error
from agentd.kuasar.probe import (
    Seen,
    Sight,
    Standing,
    classify_failure,
    classify_refusal,
    classify_standing,
    judge,
)

ANY = (Sight.ABSENT, Sight.DEAD, Sight.FORBIDDEN, Sight.SILENT, Sight.NONSENSE)
GONE = (Sight.ABSENT, Sight.DEAD)
ADMIN = (*ANY, Sight.CREATES, Sight.CREATES_ELSEWHERE, Sight.KNOWS_NO_TEMPLATES)


def standing(grpc: Sight, admin: Sight, ttrpc: Sight = Sight.ABSENT) -> Standing:
    return classify_standing(grpc, admin, ttrpc)


@pytest.mark.parametrize("admin", ADMIN, ids=lambda one: one.name)
def test_a_snapshot_plugin_is_the_grpc_form_whatever_else_is_there(admin: Sight) -> None:
    assert standing(Sight.PLUGIN, admin) is Standing.GRPC


@pytest.mark.parametrize("grpc", ANY, ids=lambda one: one.name)
def test_template_create_is_the_json_form_whatever_the_grpc_socket_is(grpc: Sight) -> None:
    assert standing(grpc, Sight.CREATES) is Standing.JSON


@pytest.mark.parametrize(
    "grpc", [one for one in ANY if one is not Sight.FORBIDDEN], ids=lambda one: one.name
)
def test_a_grpc_form_without_its_grpc_socket_is_a_fault_of_its_own(grpc: Sight) -> None:
    assert standing(grpc, Sight.CREATES_ELSEWHERE) is Standing.GRPC_UNREACHABLE


@pytest.mark.parametrize("grpc", ANY, ids=lambda one: one.name)
def test_one_that_knows_no_templates_is_an_older_one(grpc: Sight) -> None:
    assert standing(grpc, Sight.KNOWS_NO_TEMPLATES) is Standing.FROM_SANDBOX


@pytest.mark.parametrize(
    ("grpc", "admin"),
    [
        (Sight.FORBIDDEN, Sight.ABSENT),
        (Sight.FORBIDDEN, Sight.FORBIDDEN),
        (Sight.ABSENT, Sight.FORBIDDEN),
        (Sight.FORBIDDEN, Sight.CREATES_ELSEWHERE),
    ],
)
def test_permission_is_what_is_missing(grpc: Sight, admin: Sight) -> None:
    assert standing(grpc, admin) is Standing.NOT_PERMITTED


@pytest.mark.parametrize("bad", [Sight.SILENT, Sight.NONSENSE], ids=lambda one: one.name)
@pytest.mark.parametrize("other", GONE, ids=lambda one: one.name)
def test_silence_and_nonsense_are_faults_not_absence(bad: Sight, other: Sight) -> None:
    assert standing(bad, other) is Standing.FAULT
    assert standing(other, bad) is Standing.FAULT
    assert standing(other, bad, Sight.LISTENS) is Standing.FAULT


@pytest.mark.parametrize(("grpc", "admin"), list(product(GONE, GONE)))
def test_the_oldest_is_one_that_listens_alone(grpc: Sight, admin: Sight) -> None:
    assert standing(grpc, admin, Sight.LISTENS) is Standing.TTRPC
    alone = standing(grpc, admin, Sight.DEAD)
    assert alone is (Standing.ABSENT if grpc is admin is Sight.ABSENT else Standing.DEAD_SOCKET)


def test_only_two_standings_can_be_spoken_with() -> None:
    assert {one: one.form for one in Standing if one.form} == {
        Standing.JSON: Form.JSON,
        Standing.GRPC: Form.GRPC,
    }


@pytest.mark.parametrize("one", Standing)
def test_every_standing_is_a_label_value(one: Standing) -> None:
    assert one.value.replace("-", "").replace(".", "").isalnum()
    assert one.value[0].isalnum()
    assert one.value[-1].isalnum()
    assert len(one.value) <= 63


@pytest.mark.parametrize(
    ("said", "sight"),
    [
        ("missing sandbox_id", Sight.CREATES),
        ("unknown template action: template-create", Sight.CREATES_ELSEWHERE),
        ("unknown action: template-create", Sight.KNOWS_NO_TEMPLATES),
        ("template pool not configured", Sight.NONSENSE),
        ("", Sight.NONSENSE),
    ],
)
def test_a_refusal_tells_by_its_words(said: str, sight: Sight) -> None:
    assert classify_refusal(kuasar_error("asking", said)) is sight


def test_words_in_what_is_no_reply_tell_nothing() -> None:
    torn = PeerError(ErrorCode.PROVIDER_PROTOCOL, 'end after b\'{"error": "missing sandbox_id\'')
    assert classify_refusal(torn) is Sight.NONSENSE


@pytest.mark.parametrize(
    ("exc", "sight"),
    [
        (TransientError(ErrorCode.PROVIDER_UNREACHABLE, "gone"), Sight.DEAD),
        (TransientError(ErrorCode.DEADLINE_EXCEEDED, "slow"), Sight.SILENT),
        (SnapStartError(ErrorCode.PERMISSION_DENIED, "no"), Sight.FORBIDDEN),
        (PeerError(ErrorCode.PROVIDER_PROTOCOL, "what?"), Sight.NONSENSE),
        (PeerError(ErrorCode.PROVIDER_FAILED, "missing sandbox_id"), Sight.NONSENSE),
    ],
    ids=lambda one: getattr(one, "name", str(one)),
)
def test_grpc_tells_by_the_code_of_the_failure(exc: SnapStartError, sight: Sight) -> None:
    assert classify_failure(exc) is sight


def seen(name: str, sight: Sight, said: str = "", version: str = "") -> Seen:
    return Seen(Path("/run", name), sight, said, version)


def test_a_verdict_names_both_sockets_with_what_they_showed() -> None:
    found = judge(
        seen("grpc", Sight.SILENT, "no reply within 5 s"),
        seen("admin", Sight.DEAD),
        seen("ttrpc", Sight.ABSENT),
    )
    assert found.standing is Standing.FAULT
    assert (
        found.detail == "/run/admin: nobody listens on it any more; /run/grpc: no reply within 5 s"
    )
    assert "log" in found.hint


def test_every_standing_that_is_of_no_use_says_what_to_do() -> None:
    for grpc, admin, ttrpc in product((*ANY, Sight.PLUGIN), ADMIN, (Sight.ABSENT, Sight.LISTENS)):
        found = judge(seen("grpc", grpc), seen("admin", admin), seen("ttrpc", ttrpc))
        assert found.detail
        assert found.hint or found.standing.form is not None


def test_the_oldest_is_named_by_its_own_socket() -> None:
    found = judge(*(seen(n, s) for n, s in zip("gat", (*GONE, Sight.LISTENS), strict=True)))
    assert found.detail.startswith("/run/t:")


def test_a_grpc_form_tells_its_version_and_wants_its_own_admin_socket() -> None:
    plugin = seen("grpc", Sight.PLUGIN, "kuasar 1.2", "1.2")
    whole = judge(plugin, seen("admin", Sight.CREATES_ELSEWHERE), seen("ttrpc", Sight.ABSENT))
    assert (whole.version, whole.hint) == ("1.2", "")
    other = judge(plugin, seen("admin", Sight.ABSENT), seen("ttrpc", Sight.ABSENT))
    assert other.standing is Standing.GRPC
    assert "kuasar.admin_socket" in other.hint
