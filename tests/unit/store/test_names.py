"""Which names a template may have."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.errors import ErrorCode, UsageError
from agentd.store.names import validate_name

ALNUM = string.ascii_lowercase + string.digits


@pytest.mark.parametrize(
    "name",
    ["a", "0", "python", "python-3-11", "a--b", "x" * 63],
    ids=["letter", "digit", "word", "dashes", "double dash", "longest"],
)
def test_dns_labels_are_allowed(name: str) -> None:
    assert validate_name(name) == name


@pytest.mark.parametrize(
    ("why", "name"),
    [
        ("empty", ""),
        ("dot", "."),
        ("dotdot", ".."),
        ("slash", "a/b"),
        ("traversal", "../../etc/passwd"),
        ("absolute", "/etc"),
        ("nul", "a\0b"),
        ("newline at the end", "python\n"),
        ("space", "a b"),
        ("upper case", "Python"),
        ("underscore", "a_b"),
        ("leading dash", "-a"),
        ("trailing dash", "a-"),
        ("too long", "x" * 64),
        ("endless", "x" * 1_000_000),
        ("unicode letter", "pythön"),
        ("unicode digit", "python٣"),
        ("kelvin sign", "K"),
        ("lone surrogate", "a\udc80"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 20 else "",
)
def test_other_names_are_refused(why: str, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        validate_name(name)
    assert caught.value.code is ErrorCode.NAME_INVALID, why
    assert len(str(caught.value)) < 1000
    str(caught.value).encode()


@given(st.text(alphabet=ALNUM + "-", min_size=1, max_size=63))
def test_the_alphabet_fails_only_at_the_ends(name: str) -> None:
    if name[0] == "-" or name[-1] == "-":
        with pytest.raises(UsageError):
            validate_name(name)
    else:
        assert validate_name(name) == name


@given(st.text())
def test_whatever_is_accepted_is_a_plain_path_component(text: str) -> None:
    try:
        name = validate_name(text)
    except UsageError:
        return
    assert set(name) <= set(ALNUM + "-")
    assert 1 <= len(name) <= 63
