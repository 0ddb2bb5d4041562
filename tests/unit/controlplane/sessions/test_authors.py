from __future__ import annotations

from typing import Any

import pytest

from controlplane.api.meta import JsonObject
from controlplane.errors import UnavailableError
from controlplane.kube.resource import Resource
from controlplane.sessions.authors import TOKEN_REVIEWS, TokenReviewer
from tests.fakes.kube import FakeKube

ALICE = {"authenticated": True, "user": {"username": "alice"}, "audiences": ["snapstart"]}


class Reviews(FakeKube):
    """An API server that knows tokens."""

    def __init__(self, **known: JsonObject) -> None:
        super().__init__()
        self.known = known
        self.sent: list[JsonObject] = []
        self.error: Exception | None = None

    async def create(self, resource: Resource, body: JsonObject) -> JsonObject:
        assert resource == TOKEN_REVIEWS
        self.sent.append(body)
        if self.error is not None:
            raise self.error
        return {**body, "status": self.known.get(body["spec"]["token"], {})}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_a_valid_token_names_its_user_and_is_remembered_for_a_minute() -> None:
    api, clock = Reviews(good=ALICE), Clock()
    reviewer = TokenReviewer(api, clock)
    assert [await reviewer.user("Bearer good") for _ in range(3)] == ["alice"] * 3
    assert len(api.sent) == 1
    clock.now = 61.0
    assert await reviewer.user("bearer good") == "alice"
    assert len(api.sent) == 2


async def test_a_token_that_is_refused_is_asked_for_again() -> None:
    api = Reviews()
    reviewer = TokenReviewer(api, Clock())
    assert [await reviewer.user("Bearer bad") for _ in range(2)] == ["", ""]
    assert len(api.sent) == 2


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Basic good", "good", "Bearer " + "x" * 20_000],
    ids=["none", "no-token", "blank", "basic", "bare", "long"],
)
async def test_what_is_no_bearer_token_asks_nobody(header: str) -> None:
    api = Reviews(good=ALICE)
    assert await TokenReviewer(api, Clock()).user(header) == ""
    assert api.sent == []


@pytest.mark.parametrize(
    "status",
    [
        {"authenticated": "true", "user": {"username": "alice"}},
        {"authenticated": False, "user": {"username": "alice"}},
        {"authenticated": True},
        {"authenticated": True, "user": {}},
    ],
)
async def test_only_a_clear_yes_counts(status: dict[str, Any]) -> None:
    assert await TokenReviewer(Reviews(good=status), Clock()).user("Bearer good") == ""


async def test_a_token_for_another_audience_is_refused() -> None:
    api = Reviews(good=ALICE, other={**ALICE, "audiences": ["vault"]})
    reviewer = TokenReviewer(api, Clock(), audience="snapstart")
    assert await reviewer.user("Bearer good") == "alice"
    assert await reviewer.user("Bearer other") == ""
    assert api.sent[0]["spec"] == {"token": "good", "audiences": ["snapstart"]}


async def test_an_api_server_that_is_away_is_no_refusal() -> None:
    api = Reviews(good=ALICE)
    api.error = UnavailableError("away")
    with pytest.raises(UnavailableError):
        await TokenReviewer(api, Clock()).user("Bearer good")


async def test_remembered_tokens_do_not_grow_without_end() -> None:
    api = Reviews(**{f"t{n}": ALICE for n in range(1100)})
    reviewer = TokenReviewer(api, Clock())
    for n in range(1100):
        await reviewer.user(f"Bearer t{n}")
    await reviewer.user("Bearer t1099")
    assert len(api.sent) == 1100
    await reviewer.user("Bearer t0")
    assert len(api.sent) == 1101
