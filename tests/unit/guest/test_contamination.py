"""What counts as user state, kind by kind."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentd.guest.contamination import Baseline, Interpreter, Present, find_reasons, has_user_state
from agentd.guest.observe import Observation, Process

SHELL = Process(pid=1, ppid=0, name="init", cmdline="init", threads=1)
SYSTEM = Observation(
    processes=(SHELL,),
    sockets=frozenset({"tcp listen"}),
    open_files=frozenset({"1:/log"}),
    files={"/tmp/a": (1, 1, 1, 1), "/workspace/shipped": (2, 2, 2, 2)},
    mounts=frozenset({"proc /proc proc"}),
)
INSIDE = Interpreter(modules=frozenset({"os"}), environment=(("A", "1"),))
OWN = frozenset({1})
BASELINE = Baseline(SYSTEM, INSIDE, {"/workspace/shipped": (2, 2, 2, 2)})


def kinds(system: Observation = SYSTEM, inside: Interpreter = INSIDE, tasks: int = 0) -> list[str]:
    reasons = find_reasons(BASELINE, Present(system, inside, tasks, OWN), workspace="/workspace")
    return [reason.kind for reason in reasons]


def test_the_baseline_itself_is_clean() -> None:
    assert kinds() == []


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"processes": (SHELL, replace(SHELL, pid=2))}, "process"),
        ({"processes": (replace(SHELL, threads=2),)}, "thread"),
        ({"sockets": SYSTEM.sockets | {"udp x"}}, "socket"),
        ({"connections": frozenset({"tcp a b"})}, "connection"),
        ({"open_files": SYSTEM.open_files | {"1:/x"}}, "open_file"),
        ({"mounts": SYSTEM.mounts | {"tmpfs /x tmpfs"}}, "mount"),
        ({"files": {**SYSTEM.files, "/tmp/b": (1, 1, 1, 1)}}, "file"),
        ({"files": {**SYSTEM.files, "/tmp/a": (1, 2, 1, 1)}}, "file"),
        ({"files": {"/workspace/shipped": (2, 2, 2, 2)}}, "file"),
        ({"files": {**SYSTEM.files, "/workspace/b": (1, 1, 1, 1)}}, "workspace"),
        ({"files": {"/tmp/a": (1, 1, 1, 1)}}, "workspace"),
    ],
)
def test_a_change_of_the_system_is_found(change: dict[str, object], kind: str) -> None:
    assert kinds(system=replace(SYSTEM, **change)) == [kind]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"names": ("a",)}, "interpreter"),
        ({"threads": ("worker",)}, "thread"),
        ({"modules": frozenset({"os", "re"})}, "interpreter"),
        ({"environment": (("A", "2"),)}, "environment"),
        ({"execution_count": 1}, "interpreter"),
        ({"directory": "/tmp"}, "interpreter"),
    ],
)
def test_a_change_of_the_interpreter_is_found(change: dict[str, object], kind: str) -> None:
    assert kinds(inside=replace(INSIDE, **change)) == [kind]  # type: ignore[arg-type]


def test_a_foreign_process_is_found_even_if_it_was_there_at_the_checkpoint() -> None:
    system = replace(SYSTEM, processes=(SHELL, replace(SHELL, pid=2)))
    baseline = replace(BASELINE, system=system)
    (reason,) = find_reasons(baseline, Present(system, INSIDE, 0, OWN), workspace="/workspace")
    assert reason.kind == "process"


def test_code_that_ran_before_the_baseline_counts_too() -> None:
    inside = replace(INSIDE, names=("x",), execution_count=1)
    baseline = replace(BASELINE, interpreter=inside)
    reasons = find_reasons(baseline, Present(SYSTEM, inside, 0, OWN), workspace="/workspace")
    assert [reason.detail for reason in reasons] == ["names x", "1 executions"]


def test_a_running_task_is_found_but_is_no_user_state_by_itself() -> None:
    reasons = find_reasons(BASELINE, Present(SYSTEM, INSIDE, 2, OWN), workspace="/workspace")
    assert [reason.kind for reason in reasons] == ["task"]
    assert not has_user_state(reasons)


def test_values_of_variables_are_not_reported() -> None:
    inside = replace(INSIDE, environment=(("A", "secret"),))
    (reason,) = find_reasons(BASELINE, Present(SYSTEM, inside, 0, OWN), workspace="/workspace")
    assert reason.detail == "variable A"
