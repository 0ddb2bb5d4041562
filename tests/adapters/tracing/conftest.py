"""What is sent at the end of a program is waited for, unless a test says otherwise."""

from __future__ import annotations

import pytest

from agentd.tracing import exporter


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stalls costs no span."""
    monkeypatch.setattr(exporter, "_LAST_S", 40.0)
