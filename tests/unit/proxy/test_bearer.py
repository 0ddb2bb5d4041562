"""Only who knows the token is let in."""

from __future__ import annotations

import hmac
from pathlib import Path

import pytest

from agentd.errors import ConfigError, ErrorCode
from agentd.proxy.bearer import TokenSource, is_allowed

TOKEN = b"s3cret-token"


@pytest.mark.parametrize("header", ["Bearer s3cret-token", "bearer s3cret-token"])
def test_the_token_lets_in(header: str) -> None:
    assert is_allowed([header], TOKEN)


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([], id="none"),
        pytest.param([""], id="empty"),
        pytest.param(["Bearer "], id="no token"),
        pytest.param(["s3cret-token"], id="no scheme"),
        pytest.param(["Basic s3cret-token"], id="another scheme"),
        pytest.param(["Bearer  s3cret-token"], id="two spaces"),
        pytest.param(["Bearer s3cret-toke"], id="shorter"),
        pytest.param(["Bearer s3cret-token2"], id="longer"),
        pytest.param(["Bearer s3cret-tokeN"], id="another case"),
        pytest.param(["Bearer s3cret-tok\u00e9n"], id="not ASCII"),
        pytest.param(["Bearer \udcff"], id="not even text"),
        pytest.param(["Bearer s3cret-token", "Bearer s3cret-token"], id="twice"),
    ],
)
def test_nothing_else_does(headers: list[str]) -> None:
    assert not is_allowed(headers, TOKEN)


def test_defect_97_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[object, object]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return False

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert not is_allowed(["Bearer s3cret-token"], TOKEN)
    assert compared == [(b"s3cret-token", TOKEN)]


def test_the_token_comes_from_the_environment() -> None:
    assert TokenSource({"KUASAR_PROXY_TOKEN": " s3cret-token\n"}, None).read() == TOKEN


def test_a_file_goes_before_the_environment_and_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("s3cret-token\n")
    source = TokenSource({"KUASAR_PROXY_TOKEN": "another"}, file)
    assert source.read() == TOKEN
    file.write_text("replaced\n")
    assert source.read() == b"replaced"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param(" \n", id="blank"),
        pytest.param("two words", id="with a space"),
        pytest.param("\x00", id="a control character"),
        pytest.param("gel\u00f6scht", id="not ASCII"),
        pytest.param("x" * 4097, id="too long"),
    ],
)
def test_a_token_that_is_none_is_refused_and_not_told(text: str) -> None:
    with pytest.raises(ConfigError, match="KUASAR_PROXY_TOKEN") as caught:
        TokenSource({"KUASAR_PROXY_TOKEN": text}, None).read()
    assert caught.value.code is ErrorCode.CONFIG_INVALID
    assert not text.strip() or text not in str(caught.value)


def test_without_any_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="would let anybody in"):
        TokenSource({}, None).read()
    with pytest.raises(ConfigError, match="No such file"):
        TokenSource({"KUASAR_PROXY_TOKEN": "unused"}, tmp_path / "none").read()
