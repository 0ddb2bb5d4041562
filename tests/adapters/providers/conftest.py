"""A world for each form of the sandboxer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentd.kuasar.client import Form
from tests.adapters.providers.kuasar_world import HastyAccess, KuasarWorld, kuasar_world


@pytest.fixture(params=list(Form), ids=lambda form: form.name.lower())
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[KuasarWorld]:
    """A node of each form with its agent."""
    async with kuasar_world(tmp_path, request.param) as made:
        yield made


@pytest.fixture(params=list(Form), ids=lambda form: form.name.lower())
async def hasty_world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[KuasarWorld]:
    """One of each form whose agent does not wait long for an answer."""
    async with kuasar_world(tmp_path, request.param, make_access=HastyAccess) as made:
        yield made


@pytest.fixture
async def told_world(tmp_path: Path) -> AsyncIterator[KuasarWorld]:
    """A node of the form that tells which template is which."""
    async with kuasar_world(tmp_path, Form.JSON) as made:
        yield made
