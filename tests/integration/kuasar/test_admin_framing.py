"""Which bytes an admin socket answers, and which it drops."""

from __future__ import annotations

from typing import Final

import pytest

from .admin import ask, exchange
from .conftest import OpenPlace

ASKED: Final = b'{"action": "template-list"}'
LISTED: Final = b'"templates"'
NOTHING_ASKED: Final = b'"unknown action: "'
ANSWERED: Final = {
    "without an end of line": (ASKED, LISTED),
    "CR LF": (ASKED + b"\r\n", LISTED),
    "blanks around": (b"  " + ASKED + b"  \n", LISTED),
    "two at once": (ASKED + b"\n" + b'{"action": "nope"}\n', LISTED),
    "a member twice": (b'{"action": "nope", "action": "template-list"}\n', LISTED),
    "a very long line": (
        b'{"action": "template-list", "x": "' + b"x" * (4 << 20) + b'"}\n',
        LISTED,
    ),
    "no action": (b"{}\n", NOTHING_ASKED),
    "an action that is no text": (b'{"action": 5}\n', NOTHING_ASKED),
    "a list": (b"[]\n", NOTHING_ASKED),
    "a number": (b"5\n", NOTHING_ASKED),
    "a text": (b'"template-list"\n', NOTHING_ASKED),
    "null": (b"null\n", NOTHING_ASKED),
}
DROPPED: Final = {
    "nothing": b"",
    "an empty line": b"\n",
    "half of it": b'{"action":\n',
    "no JSON": b"GET / HTTP/1.1\r\n\r\n",
    "more behind it": ASKED + b" x\n",
    "no number": b'{"action": "template-list", "x": NaN}\n',
    "no UTF-8": b"\xff\xfe\n",
    "half a character": b'{"action": "template-list", "x": "\\ud800"}\n',
    "very deep": b'{"action": "template-list", "x": ' + b"[" * 500 + b"]" * 500 + b"}\n",
}


@pytest.mark.parametrize("sent", ANSWERED)
async def test_what_can_be_read_is_answered_once(open_place: OpenPlace, sent: str) -> None:
    place = open_place()
    data, expected = ANSWERED[sent]
    async with place.serving():
        reply = await exchange(place.admin, data, ends=True)
    assert expected in reply
    assert reply.count(b"\n") == 1
    assert reply.endswith(b"\n")


@pytest.mark.parametrize("sent", DROPPED)
async def test_what_cannot_be_read_is_dropped_without_a_word(
    open_place: OpenPlace, sent: str
) -> None:
    place = open_place()
    async with place.serving():
        assert await exchange(place.admin, DROPPED[sent], ends=True) == b""
        assert (await ask(place.admin, action="template-list"))["ok"] is True
