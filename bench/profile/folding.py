"""Count equal stacks of what `perf script` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

SCRIPT_FIELDS = "comm,ip,sym"
"""For `perf script -F`: a line with the program's name, a line for each frame, an empty line."""

Stack = tuple[str, ...]


def fold(lines: Iterable[str]) -> Counter[Stack]:
    """Stacks from the program's name inwards, with how many samples each has.

    Frames without a name are of programs without symbols; one stands for a run of them.
    """
    stacks: Counter[Stack] = Counter()
    program, frames = "", list[str]()
    for line in [*lines, ""]:
        if not line.strip():
            if program:
                stacks[(program, *reversed(frames))] += 1
            program, frames = "", []
        elif not line[0].isspace():
            program = line.strip()
        elif (frame := _frame(line)) != "[unknown]" or frames[-1:] != [frame]:
            frames.append(frame)
    return stacks


def _frame(line: str) -> str:
    """The symbol of `  ffffffff81000000 name+0x1f`."""
    _, _, symbol = line.strip().partition(" ")
    return symbol.rpartition("+0x")[0] or symbol or "[unknown]"
