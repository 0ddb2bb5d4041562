"""What a sandboxer would refuse, or take for a path, is not sent."""

from __future__ import annotations

import pytest

from agentd.errors import ErrorCode, UsageError
from agentd.kuasar.names import require_id, require_key


@pytest.mark.parametrize("key", ["a", "A9", "python-ready-fork-g12-r1", "a.b_c", "x" * 253])
def test_a_key_is_passed_on(key: str) -> None:
    assert require_key(key) == key


@pytest.mark.parametrize(
    "key", ["", ".", "..", "a/b", "-a", "a-", "a b", "a\n", "ä", "x" * 254, "../../etc"]
)
def test_a_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(UsageError, match="key") as caught:
        require_key(key)
    assert caught.value.code is ErrorCode.NAME_INVALID
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("text", ["a" * 12, "0123456789ab-_", "f" * 64])
def test_an_id_is_passed_on(text: str) -> None:
    assert require_id("sandbox_id", text) == text


@pytest.mark.parametrize("text", ["", "a" * 11, "a" * 65, "a" * 11 + "/", "a" * 12 + "\n"])
def test_an_id_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="sandbox_id"):
        require_id("sandbox_id", text)
