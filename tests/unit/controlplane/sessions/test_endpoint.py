from __future__ import annotations

import json
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from controlplane.api import names
from controlplane.errors import UnavailableError
from controlplane.sessions.authors import TokenReviewer
from controlplane.sessions.decision import Decision, StartReason, cold
from controlplane.sessions.endpoint import IntentEndpoint
from controlplane.sessions.metrics import SessionMetrics
from controlplane.sessions.session import SessionStart
from tests.fakes.kube import FakeKube
from tests.fakes.session_world import NAMESPACE, POD_SPEC, TEMPLATE

REQUEST = {"namespace": NAMESPACE, "template": TEMPLATE, "podTemplate": {"spec": POD_SPEC}}
MANAGER = "system:serviceaccount:agentcube:workload-manager"


class Users(TokenReviewer):
    def __init__(self, user: str | Exception) -> None:
        super().__init__(FakeKube(), lambda: 0.0)
        self.answer = user

    async def user(self, authorization: str) -> str:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Endpoint:
    def __init__(self, decision: Decision, user: str | Exception = MANAGER) -> None:
        self.decision = decision
        self.asked: list[SessionStart] = []
        metrics = SessionMetrics(CollectorRegistry())
        self.endpoint = IntentEndpoint(self.find, Users(user), metrics, frozenset({MANAGER}))

    async def find(self, session: SessionStart) -> Decision:
        self.asked.append(session)
        return self.decision

    async def send(self, body: Any) -> tuple[int, Any]:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, answer = await self.endpoint.answer(raw)
        return status, json.loads(answer)


async def test_a_restore_names_the_key() -> None:
    endpoint = Endpoint(Decision("key-1", StartReason.RESTORED_INTENT))
    assert await endpoint.send(REQUEST) == (
        200,
        {
            "snapshotKey": "key-1",
            "reason": "restored_intent",
            "annotations": {names.SNAPSHOT_KEY: "key-1"},
        },
    )
    assert endpoint.asked[0].template == TEMPLATE
    assert endpoint.asked[0].spec.pod_template.spec == POD_SPEC


async def test_a_restore_names_what_the_provider_has_to_be_told() -> None:
    told = {"kuasar.io/template-key": "key-1"}
    endpoint = Endpoint(Decision("key-1", StartReason.RESTORED_INTENT, "s", told))
    _, answer = await endpoint.send(REQUEST)
    assert answer["annotations"] == {names.SNAPSHOT_KEY: "key-1", **told}


async def test_whose_session_it_is_comes_with_the_request() -> None:
    pod = {"spec": POD_SPEC, "metadata": {"labels": {names.SESSION_ID: "5f0c"}}}
    endpoint = Endpoint(cold(StartReason.NO_SNAPSHOT))
    await endpoint.send({**REQUEST, "podTemplate": pod, "sandboxName": "python-1"})
    await endpoint.send(REQUEST)
    assert [(one.name, one.session_id) for one in endpoint.asked] == [
        ("python-1", "5f0c"),
        ("", ""),
    ]


async def test_a_cold_start_is_an_answer_too() -> None:
    endpoint = Endpoint(cold(StartReason.HASH_MISMATCH))
    expected: dict[str, Any] = {
        "snapshotKey": None,
        "reason": "hash_mismatch",
        "annotations": {},
    }
    assert await endpoint.send(REQUEST) == (200, expected)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        {},
        {**REQUEST, "snapshotKey": "mine"},
        {**REQUEST, "podTemplate": []},
        {**REQUEST, "template": None},
    ],
    ids=["cut", "empty", "unknown-member", "list", "null"],
)
async def test_a_request_that_cannot_be_read_is_refused(body: Any) -> None:
    endpoint = Endpoint(Decision("key-1", StartReason.RESTORED_INTENT))
    status, answer = await endpoint.send(body)
    assert status == 400
    assert "read a restore intent request" in answer["error"]
    assert endpoint.asked == []


@pytest.mark.parametrize(
    ("user", "status"),
    [("", 401), ("system:serviceaccount:evil:me", 403), (UnavailableError("away"), 503)],
    ids=["nobody", "somebody-else", "unknown"],
)
async def test_who_may_not_ask_learns_nothing(user: str | Exception, status: int) -> None:
    refused = await Endpoint(cold(StartReason.NO_SNAPSHOT), user).endpoint.check({})
    assert refused is not None
    assert refused[0] == status


async def test_a_named_caller_may_ask() -> None:
    endpoint = Endpoint(cold(StartReason.NO_SNAPSHOT)).endpoint
    assert await endpoint.check({"Authorization": "Bearer x"}) is None
