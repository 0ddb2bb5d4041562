"""The API, its document and its page say the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentd.http.openapi import describe_api
from agentd.http.routes import Route
from agentd.wire import api

PAGE = Path(__file__).parents[3] / "docs/local-api.md"


async def _handle(_request: Any) -> Any:
    raise AssertionError("a description calls no handler")


@pytest.fixture(name="routes")
def make_routes() -> list[Route]:
    return [
        Route("POST", "/v1/x", "Make one", _handle, api.CreateSession, api.Session, 201),
        Route("GET", "/v1/x/{id}/files/{path:.+}", "Read", _handle, None, bytes),
        Route("*", "/v1/x/{id}/http/{path:.*}", "Pass on", _handle, bytes, bytes),
    ]


def test_every_reference_leads_somewhere(routes: list[Route]) -> None:
    document = msgspec.json.decode(describe_api(routes, "1"))
    text = msgspec.json.encode(document).decode()
    for kind, name in re.findall(r'"#/components/(\w+)/(\w+)"', text):
        assert name in document["components"][kind]


def test_paths_have_their_parameters_and_bodies(routes: list[Route]) -> None:
    paths = msgspec.json.decode(describe_api(routes, "1"))["paths"]
    assert set(paths) == {"/v1/x", "/v1/x/{id}/files/{path}", "/v1/x/{id}/http/{path}"}
    assert [item["name"] for item in paths["/v1/x/{id}/files/{path}"]["get"]["parameters"]] == [
        "id",
        "path",
    ]
    assert "201" in paths["/v1/x"]["post"]["responses"]
    assert "delete" in paths["/v1/x/{id}/http/{path}"]


def test_the_page_names_every_member_of_a_session_and_a_template() -> None:
    page = PAGE.read_text()
    for kind in (api.Session, api.Template, api.Execution, api.Status):
        for member in kind.__struct_fields__:
            assert f"`{member}`" in page, f"{kind.__name__}.{member} is not in the page"
