"""Do everything that a node is for, once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from agentd.client import Sandbox
from bench.node import Node

TEMPLATE: Final = "python"
CALL_S: Final = 180.0
_BLOB: Final = bytes(range(256)) * 256


class Tally:
    """Operations that were done, and what went wrong; of several threads."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.failures: list[str] = []
        self._lock = threading.Lock()

    def count(self, what: str) -> None:
        """One more."""
        with self._lock:
            self.done[what] += 1

    def fail(self, what: str, why: object) -> None:
        """One that did not do what it should."""
        with self._lock:
            self.failures.append(f"{what}: {why}")


def run_guarded(tally: Tally, what: str, act: Callable[[], None]) -> None:
    """Whatever it raises is a failure, and not the end."""
    try:
        act()
        tally.count(what)
    except Exception as exc:
        tally.fail(what, f"{type(exc).__name__}: {exc}")


def use_session(node: Node, tally: Tally, template: str = TEMPLATE) -> None:
    """Create, run code, files, delete."""
    with node.create(template) as sandbox:
        tally.count("create")
        for number in range(3):
            said = sandbox.run_code(f"sum(range({number + 10}))", timeout=CALL_S)
            assert said.text == str(sum(range(number + 10))), said
            tally.count("execute")
        _use_files(sandbox)
        tally.count("files")
    tally.count("delete")


def _use_files(sandbox: Sandbox) -> None:
    sandbox.files.write("blob", _BLOB)
    assert sandbox.files.read("blob", "bytes") == _BLOB
    assert [one.path for one in sandbox.files.list()], "the workspace is empty"
    sandbox.files.remove("blob")
    assert not sandbox.files.exists("blob")


def use_template(node: Node, tally: Tally, image: Path, name: str) -> None:
    """Build, fork once, remove."""
    node.build_template(name, str(image))
    tally.count("build")
    use_session(node, tally, name)
    node.remove_template(name)
    tally.count("remove template")


def together(*acts: Callable[[], None]) -> None:
    """All at once, to the end of the last."""
    threads = [threading.Thread(target=act) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
