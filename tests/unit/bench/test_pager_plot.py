"""The plot shows every sample of every way, in one file."""

from __future__ import annotations

from xml.etree import ElementTree

from bench.pager.plot import Panel, Row, draw

SVG = "{http://www.w3.org/2000/svg}"
PANELS = [
    Panel("warm", [Row("kernel <file>", "kernel", [20.0, 30.0]), Row("ours", "ours", [10.0] * 3)]),
    Panel("cold", [Row("kernel", "kernel", [600.0]), Row("ours", "ours", [6.0])]),
]


def drawn() -> ElementTree.Element:
    return ElementTree.fromstring(draw("Time & sets", PANELS))


def test_every_sample_is_a_dot() -> None:
    assert len(list(drawn().iter(f"{SVG}circle"))) == 7


def test_names_are_shown_as_they_are() -> None:
    texts = [one.text for one in drawn().iter(f"{SVG}text")]
    assert {"Time & sets", "warm", "cold", "kernel <file>", "25.0 ms", "600.0 ms"} <= set(texts)


def test_what_takes_longer_stands_further_to_the_right() -> None:
    warm = list(drawn().iter(f"{SVG}circle"))[:3]
    slow, slower, fast = (float(one.get("cx", "nan")) for one in warm)
    assert fast < slow < slower


def test_everything_is_within_the_picture() -> None:
    root = drawn()
    width, height = float(root.get("width", "0")), float(root.get("height", "0"))
    for one in root.iter(f"{SVG}circle"):
        assert 0 < float(one.get("cx", "-1")) < width
        assert 0 < float(one.get("cy", "-1")) < height
