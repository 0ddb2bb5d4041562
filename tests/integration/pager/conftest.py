"""What tests of a running page server need."""

from __future__ import annotations

import pytest

from tests.torture.programs import Programs, build_programs


@pytest.fixture(scope="session")
def programs() -> Programs:
    """A page server that dies where it is told, and stand-in machines; kept between runs."""
    return build_programs()
