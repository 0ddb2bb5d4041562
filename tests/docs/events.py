"""Find in the code what it writes to the log, and what it says on objects of Kubernetes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agentd.log import choose_level
from controlplane.api import builds
from controlplane.api.manifest import SetReason
from controlplane.api.types import ConditionType
from controlplane.api.validation import ProblemKind
from controlplane.runtimes.condition import Reason

ROOT: Final = Path(__file__).parents[2]
LEVELS: Final = ("debug", "info", "warning", "error", "exception")
# No field of the line: `**more`, and the exception whose traceback follows.
_UNSEEN: Final = (None, "exc_info")
# How what notes a step is called: a logger's methods, a tracer's, what is handed on of either.
_NOTING: Final = (*LEVELS, "step", "_step", "_report", "emit", "log")
_EVENT: Final = re.compile(r"[a-zA-Z_]+(\.[a-zA-Z_]+)+")
# The guest's runtime logs nothing; the rest of agentd's commands talk to people.
_SILENT: Final = ("agentd/guest", "agentd/cli")


@dataclass
class LogEvent:
    """One name of events, with all that is written under it."""

    levels: set[str] = field(default_factory=set)
    fields: dict[str, None] = field(default_factory=dict)
    modules: dict[str, None] = field(default_factory=dict)


def log_events(package: str) -> dict[str, LogEvent]:
    """By name. What a name is made of at run time stands there in capitals."""
    found: dict[str, LogEvent] = {}
    for path in _sources(package):
        tree = ast.parse(path.read_text())
        names = _constants(tree)
        for scope in ast.walk(tree):
            if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef):
                for call in _calls(scope):
                    _note(found, path, scope, call, names)
    return dict(sorted(found.items()))


def _sources(package: str) -> Iterator[Path]:
    for path in sorted((ROOT / package).rglob("*.py")):
        if not str(path.relative_to(ROOT)).startswith(_SILENT):
            yield path


def _calls(scope: ast.AST) -> Iterator[ast.Call]:
    """Of a function, without those of functions in it, which are looked at by themselves."""
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Call):
            yield node
        yield from _calls(node)


def _constants(tree: ast.Module) -> dict[str, str]:
    """Strings that a module has given a name."""
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _note(
    found: dict[str, LogEvent],
    path: Path,
    scope: ast.AST,
    call: ast.Call,
    names: dict[str, str],
) -> None:
    how = _name_of(call.func)
    event = _text(call.args[0], names) if call.args else ""
    if how not in _NOTING or not _EVENT.fullmatch(event):
        return
    told = found.setdefault(event, LogEvent())
    told.levels.update(_levels(how, event, scope))
    told.fields.update({one.arg: None for one in call.keywords if one.arg not in _UNSEEN})
    told.modules[str(path.relative_to(ROOT))] = None


def _name_of(called: ast.expr) -> str:
    return str(getattr(called, "attr", getattr(called, "id", "")))


def _text(node: ast.expr, names: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return names.get(node.id, "")
    if isinstance(node, ast.JoinedStr):
        return "".join(_part(one) for one in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _part(node: ast.expr) -> str:
    if isinstance(node, ast.FormattedValue):
        return ast.unparse(node.value).upper()
    return str(node.value) if isinstance(node, ast.Constant) else ""


def _levels(how: str, event: str, scope: ast.AST) -> Iterable[str]:
    if how in LEVELS:
        return ["error" if how == "exception" else how]
    if how in ("emit", "log"):
        return _chosen(how, scope)
    return [_LEVEL_NAMES[choose_level(event)]]


_LEVEL_NAMES: Final = {10: "debug", 20: "info", 30: "warning"}


def _chosen(name: str, scope: ast.AST) -> list[str]:
    """The levels among which a function chooses: `log = _log.debug if ... else _log.error`."""
    values = [
        node.value
        for node in ast.walk(scope)
        if isinstance(node, ast.Assign)
        and any(isinstance(one, ast.Name) and one.id == name for one in node.targets)
    ]
    names = [
        node.attr for value in values for node in ast.walk(value) if isinstance(node, ast.Attribute)
    ]
    return [name for name in names if name in LEVELS]


# -- what is said on objects ----------------------------------------------------------------------

# Which argument of a call is the reason of an event, by the name of what is called.
_REASON_AT: Final = {
    "EmitEvent": 0,
    "Problem": 0,
    "Refusal": 0,
    "Report": 2,
    "warning": 1,
    "normal": 1,
}
_SAYING: Final = ("controlplane/snapshots", "agentd/node")
# A problem that no event tells: the snapshot is being deleted.
_UNTOLD: Final = "Deleting"


def event_reasons() -> set[str]:
    """Every reason of an event that the code writes."""
    calls = [call for package in _SAYING for call in _package_calls(package)]
    found = {reason for call in calls for reason in _reasons_of(call) if reason[:1].isupper()}
    # A Ready condition's reason becomes an event's where a snapshot failed for a particular one.
    found |= {"NoTargetNodes", *(one.value for one in ProblemKind), *(one.value for one in Reason)}
    return found - {_UNTOLD}


def _package_calls(package: str) -> Iterator[ast.Call]:
    for path in _sources(package):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield node


def _reasons_of(call: ast.Call) -> Iterator[str]:
    place = _REASON_AT.get(_name_of(call.func))
    given = [one.value for one in call.keywords if one.arg == "event"]
    if place is not None:
        given += call.args[place : place + 1]
    for node in given:
        if isinstance(node, ast.Name):
            yield str(getattr(builds, node.id, ""))
        yield from strings(node)


def strings(node: ast.expr) -> Iterator[str]:
    """What an expression may be, of strings that stand in it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from (*strings(node.body), *strings(node.orelse))


def condition_reasons() -> set[tuple[str, str]]:
    """Type and reason of every condition of a SandboxSnapshot, and of ours of a CodeInterpreter."""
    found = {("TemplateManaged", one.value) for one in Reason}
    found |= {("Rebuilding", one.value.title().replace("_", "")) for one in SetReason}
    found |= {("Ready", reason) for reason in _problem_reasons()}
    for call in _package_calls("controlplane/snapshots"):
        if _name_of(call.func) == "Verdict":
            found |= {("Ready", one) for node in call.args[1:2] for one in strings(node)}
        if _name_of(call.func) == "_condition" and len(call.args) > 2:
            kind = ConditionType[_name_of(call.args[0])].value
            found |= {(kind, one) for one in strings(call.args[2])}
    return found


def _problem_reasons() -> set[str]:
    """Why there may be nothing to make a snapshot of."""
    given = [
        one
        for call in _package_calls("controlplane/snapshots")
        if _name_of(call.func) == "Problem" and call.args
        for one in strings(call.args[0])
    ]
    return {*given, *(one.value for one in ProblemKind)} - {_UNTOLD}
