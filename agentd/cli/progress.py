"""Show how far a long step is, on stderr."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

from agentd.cli.tables import is_terminal, new_console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class StageProgress:
    """A bar on a terminal, one line a stage elsewhere, nothing when quiet. Use in `with`."""

    def __init__(self, *, is_quiet: bool) -> None:
        self._is_quiet = is_quiet
        self._stage: str | None = None
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if not self._is_quiet and is_terminal(sys.stderr):
            self._bar = _new_bar()
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, stage: str, done: float, total: float, note: str = "") -> None:
        """Show `done` of `total` of a stage; on a terminal the note stands beside the bar."""
        if self._is_quiet:
            return
        if self._bar is not None:
            self._move_bar(self._bar, stage, done, total, note)
        elif stage != self._stage:
            print(f"{stage} ...", file=sys.stderr)
        self._stage = stage

    def _move_bar(self, bar: Progress, stage: str, done: float, total: float, note: str) -> None:
        if self._task is None or stage != self._stage:
            if self._task is not None:
                bar.update(self._task, completed=bar.tasks[-1].total or 1, note="")
            self._task = bar.add_task(stage, total=total or None, note=note)
        bar.update(self._task, completed=done, total=total or None, note=note)


def _new_bar() -> Progress:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
        console=new_console(sys.stderr),
    )
