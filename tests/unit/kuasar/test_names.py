"""What a sandboxer would refuse, or take for a path, is not sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentd.errors import ConfigError, ErrorCode, UsageError
from agentd.kuasar.names import require_id, require_key, require_socket_path


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


@pytest.mark.parametrize("text", ["/run/a.sock", "/" + "x" * 106, "/" + "ä" * 53])
def test_a_path_is_passed_on(text: str) -> None:
    assert require_socket_path("asking", Path(text)) == Path(text)


@pytest.mark.parametrize("text", ["/" + "x" * 107, "/" + "ä" * 54], ids=["bytes", "characters"])
def test_a_path_that_no_socket_has_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"asking: .* at most 107 bytes") as caught:
        require_socket_path("asking", Path(text))
    assert caught.value.code is ErrorCode.CONFIG_INVALID
