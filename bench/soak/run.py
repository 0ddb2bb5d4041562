"""Run rounds until the time is over; sample after each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agentd.client import Sandbox
from bench.demo import IMAGES, MEMORY_MIB
from bench.node import Node
from bench.soak import work
from bench.soak.machines import PageServer
from bench.soak.watch import Sample, look
from tests.integration.node.survey import settle

_BUILD_EVERY: Final = 6
_AGENTD_EVERY: Final = 45
_PAGER_EVERY: Final = 60
_SETTINGS: Final = {
    "MACHINES__MEMORY_MIB": str(MEMORY_MIB),
    "DEADLINES__ADOPT_S": "120",
    "DEADLINES__FORK_S": "180",
    "STOP__REQUESTS_S": "120",
}


@dataclass
class Run:
    """What came of it. lives: of each program, the rounds at which a new process began."""

    begun_at_s: float
    at_s: list[float] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    lives: dict[str, list[int]] = field(default_factory=lambda: {"agentd": [0], "pager": [0]})
    done: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.at_s[-1] if self.at_s else 0.0


def run_soak(image: Path, minutes: float, told: Callable[[Run], None]) -> Run:
    """told: called after every round."""
    with Node(IMAGES, **_SETTINGS) as node, PageServer() as pager:
        node.build_template(work.TEMPLATE, str(image))
        return _Soak(node, pager, image).run(minutes, told)


class _Soak:
    def __init__(self, node: Node, pager: PageServer, image: Path) -> None:
        self._node = node
        self._pager = pager
        self._image = image
        self._tally = work.Tally()
        self._lasting: Sandbox
        self._count = 0
        self._journal_bytes = 0

    def run(self, minutes: float, told: Callable[[Run], None]) -> Run:
        """One session lives from the first round to the last."""
        found = Run(time.time())
        begun_s = time.monotonic()
        self._lasting = self._node.create(work.TEMPLATE)
        self._lasting.run_code("done = 0", timeout=work.CALL_S)
        self._replace_agentd()
        while time.monotonic() - begun_s < 60 * minutes:
            self._round(len(found.samples), found)
            settle(self._node)
            found.samples.append(self._look())
            found.at_s.append(time.monotonic() - begun_s)
            found.done, found.failures = dict(self._tally.done), self._tally.failures
            told(found)
        self._lasting.kill()
        self._lasting.close()
        return found

    def _round(self, number: int, found: Run) -> None:
        if number and number % _AGENTD_EVERY == 0:
            self._guarded("restart agentd", self._replace_agentd)
            found.lives["agentd"].append(number)
        if number and number % _PAGER_EVERY == 0:
            self._guarded("restart page server", self._pager.replace)
            found.lives["pager"].append(number)
        work.together(
            lambda: self._guarded("session", lambda: work.use_session(self._node, self._tally)),
            lambda: self._guarded("session", lambda: work.use_session(self._node, self._tally)),
            lambda: self._guarded("lasting session", self._use_lasting),
            lambda: self._guarded("machine of the page server", self._pager.live),
        )
        if number % _BUILD_EVERY == _BUILD_EVERY - 1:
            self._guarded("template", self._use_template)

    def _guarded(self, what: str, act: Callable[[], None]) -> None:
        work.run_guarded(self._tally, what, act)

    def _use_lasting(self) -> None:
        said = self._lasting.run_code("done += 1\ndone", timeout=work.CALL_S)
        self._count += 1
        assert said.text == str(self._count), f"{said.text} instead of {self._count}"

    def _use_template(self) -> None:
        work.use_template(self._node, self._tally, self._image, "soak")

    def _replace_agentd(self) -> None:
        self._node.stop()
        self._node.start()
        self._journal_bytes = (self._node.root / "run" / "journal").stat().st_size

    def _look(self) -> Sample:
        return look(self._node, self._pager.pid, self._pager.journal_dir, self._journal_bytes)
