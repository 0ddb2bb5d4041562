"""Draw counted stacks as a flame graph: one box for each frame, as wide as its share of samples."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape

from bench.profile.folding import Stack

_WIDTH = 1200.0
_ROW = 16
_NARROWEST = 0.4  # boxes below this many pixels are left out
_CHARACTER = 6.6


@dataclass
class _Node:
    samples: int = 0
    calls: dict[str, _Node] = field(default_factory=dict)


@dataclass(frozen=True)
class Box:
    """Of one frame. begin, samples: in samples; depth: 0 is the whole."""

    name: str
    depth: int
    begin: int
    samples: int


def plan_boxes(stacks: Mapping[Stack, int]) -> list[Box]:
    """All boxes; those of one caller stand side by side in the order of their names."""
    root = _Node()
    for stack, samples in stacks.items():
        node = root
        node.samples += samples
        for name in stack:
            node = node.calls.setdefault(name, _Node())
            node.samples += samples
    return list(_boxes("all", root, 0, 0))


def _boxes(name: str, node: _Node, depth: int, begin: int) -> Iterator[Box]:
    yield Box(name, depth, begin, node.samples)
    for called, below in sorted(node.calls.items()):
        yield from _boxes(called, below, depth + 1, begin)
        begin += below.samples


def draw(stacks: Mapping[Stack, int], title: str) -> str:
    """An SVG document; each box tells its name and share when pointed at."""
    boxes = plan_boxes(stacks)
    whole = max(1, boxes[0].samples)
    height = (max(box.depth for box in boxes) + 1) * _ROW + 2 * _ROW
    scale = _WIDTH / whole
    wide = [box for box in boxes if box.samples * scale >= _NARROWEST]
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:g} {height}" '
        'font-family="monospace" font-size="11">',
        f'<rect width="100%" height="100%" fill="#fff"/><text x="4" y="12">{escape(title)}, '
        f"{boxes[0].samples} samples</text>",
        *(_draw_box(box, scale, whole, height) for box in wide),
        "</svg>\n",
    ])  # fmt: skip


def _draw_box(box: Box, scale: float, whole: int, height: int) -> str:
    x, width = box.begin * scale, box.samples * scale
    y = height - (box.depth + 1) * _ROW
    hue = zlib.crc32(box.name.encode()) % 60
    room = int(width / _CHARACTER) - 1
    text = box.name if len(box.name) <= room else box.name[: max(0, room - 1)] + "…"
    label = f'<text x="{x + 2:.1f}" y="{y + 12}">{escape(text)}</text>' if room > 2 else ""
    told = f"{box.name}: {box.samples} samples, {100 * box.samples / whole:.1f} %"
    return (
        f"<g><title>{escape(told)}</title>"
        f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_ROW - 1}" '
        f'fill="hsl({hue},80%,65%)"/>{label}</g>'
    )
