"""Write the pages of docs/reference/ out of the code: `python -m tests.docs.reference`.

A test compares the pages that are committed with what this makes of the code as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click
import yaml  # type: ignore[import-untyped]
from prometheus_client.metrics_core import Metric

from agentd.cli.agentd import root as agentd_command
from agentd.cli.snapctl import snapctl as snapctl_command
from agentd.errors import ErrorCode
from agentd.settings import Settings as AgentdSettings
from agentd.typed_settings import Group
from agentd.typed_settings.example import comments, summary
from controlplane.cli import root as controlplane_command
from controlplane.settings import Settings as ControlPlaneSettings
from tests.adapters.monitoring.known_metrics import (
    agentd_families,
    controlplane_families,
    labels_of,
)
from tests.docs import events, meanings, reasons
from tests.docs.advice import ADVICE

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = ROOT / "docs" / "reference"
_HEAD: Final = "<!-- Made of the code by `make docs-reference`; do not edit. -->"
_UNITS: Final = ("seconds", "bytes", "ratio", "pages")
_PROGRAMS: Final = (
    ("agentd", agentd_command),
    ("snapctl", snapctl_command),
    ("snapstart-controlplane", controlplane_command),
)


def page(title: str, intro: str, parts: Iterable[str]) -> str:
    """A whole page."""
    return "\n\n".join([f"# {title}", _HEAD, intro, *parts]) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(one) for one in line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    """As code, or nothing."""
    return f"`{text}`" if text else ""


# -- metrics --------------------------------------------------------------------------------------


def metrics_page() -> str:
    """Every series of both programs, out of their registries."""
    intro = (
        "Prometheus text at `GET /metrics` ([where](../operator.md#metrics)). "
        "Alerts that use them: [troubleshooting](../troubleshooting.md#alerts)."
    )
    parts = [
        f"## agentd\n\n{_metrics_table(agentd_families())}",
        f"## Control plane\n\n{_metrics_table(controlplane_families())}",
    ]
    return page("Metrics", intro, parts)


def _metrics_table(families: Iterable[Metric]) -> str:
    rows = (
        (
            code(f"{one.name}_total" if one.type == "counter" else one.name),
            one.type,
            ", ".join(map(code, labels_of(one.name))),
            unit_of(one.name),
            one.documentation,
        )
        for one in sorted(families, key=lambda one: one.name)
    )
    return table(("metric", "type", "labels", "unit", "meaning"), rows)


def unit_of(name: str) -> str:
    """As the name ends; what has no unit is counted."""
    return next((unit for unit in _UNITS if name.endswith(f"_{unit}")), "count")


# -- settings -------------------------------------------------------------------------------------


def configuration_page() -> str:
    """Every setting of both programs, out of their definitions and the comments there."""
    intro = (
        "How they are read: [agentd](../operator.md#configuration), "
        "[control plane](../operator.md#control-plane-settings). "
        "The same as files: `deploy/agentd.toml`, `deploy/agentd.env`, `deploy/controlplane.toml`."
    )
    programs = (("agentd", AgentdSettings), ("snapstart-controlplane", ControlPlaneSettings))
    parts = [part for name, settings in programs for part in _settings(name, settings)]
    return page("Configuration", intro, parts)


def _settings(program: str, settings: type[Group]) -> Iterator[str]:
    yield f"## {program}"
    whole = settings()
    for name in settings.__struct_fields__:
        group = getattr(whole, name)
        said = comments(type(group))
        rows = [
            (code(f"{name}.{field}"), _default(getattr(group, field)), " ".join(said[field]))
            for field in group.__struct_fields__
        ]
        yield f"### `[{name}]` of {program}\n\n{summary(type(group))}"
        yield table(("setting", "default", "meaning"), rows)


def _default(value: object) -> str:
    if value is None:
        return "unset"
    if isinstance(value, tuple):
        return code(f"[{', '.join(map(str, value))}]")
    return code(str(value)) or "empty"


# -- commands -------------------------------------------------------------------------------------


def cli_page() -> str:
    """Every command of every program, out of their definitions."""
    intro = (
        "Exit codes are [those of errors](errors.md). "
        "Options that every command of a program has stand with each."
    )
    parts = [
        part for name, command in _PROGRAMS for part in (f"## {name}", *_commands(command, name))
    ]
    return page("Command line", intro, parts)


def _commands(command: click.Command, path: str) -> Iterator[str]:
    context = click.Context(command, info_name=path)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None and not found.hidden:
                yield from _commands(found, f"{path} {name}")
        return
    usage = " ".join((path, *command.collect_usage_pieces(context)))
    text = "\n\n".join(filter(None, (f"### {path}", code(usage), _help(command))))
    rows = [row for row in (_option(one, context) for one in command.get_params(context)) if row]
    yield f"{text}\n\n{table(('option', 'meaning'), rows)}" if rows else text


def _help(command: click.Command) -> str:
    return " ".join((command.help or "").replace("\b", "").split())


def _option(param: click.Parameter, context: click.Context) -> tuple[str, str] | None:
    """None for one that is hidden, and for an argument, which the usage has."""
    found = param.get_help_record(context)
    return None if found is None or not found[1] else (code(found[0]), found[1])


# -- errors ---------------------------------------------------------------------------------------


def errors_page() -> str:
    """Every code, as agentd.errors has it, with what its reader does."""
    intro = (
        "Codes never change their meaning; messages are for people. Where they are seen: "
        "[operator page](../operator.md#codes), [local API](../local-api.md)."
    )
    rows = (
        (code(one.value), str(one.exit_code), str(one.http_status), ADVICE[one])
        for one in sorted(ErrorCode, key=lambda one: one.exit_code)
    )
    return page("Errors", intro, [table(("code", "exit", "HTTP", "what to do"), rows)])


# -- events, conditions ---------------------------------------------------------------------------


def events_page() -> str:
    """What both programs log, and what they say on objects of Kubernetes."""
    intro = (
        "Logs go to standard error: lines of JSON, or of `key=value` pairs with "
        '`log.format = "text"`, each with `timestamp`, `level`, `event`. Words in capitals stand '
        "for what is filled in."
    )
    parts = [
        f"## Log of agentd\n\n{_log_table('agentd', meanings.AGENTD)}",
        "## Log of the control plane\n\nThose of `controlplane/kube` are agentd's too, where "
        f"`node.enabled` is set.\n\n{_log_table('controlplane', meanings.CONTROL_PLANE)}",
        "## Kubernetes Events\n\nOn transitions only; repetitions are counted up in one event. "
        f"`snapctl snapshot describe` and `kubectl describe` show them.\n\n{_reasons_table()}",
        "## Conditions\n\nOf a SandboxSnapshot; `TemplateManaged` "
        "(`snapstart.agentcube.volcano.sh/TemplateManaged`) of a CodeInterpreter. That of a Node "
        f"with Kuasar is in [kuasar.md](../kuasar.md#on-the-node).\n\n{_conditions_table()}",
    ]
    return page("Events and conditions", intro, parts)


def _log_table(package: str, said: Mapping[str, str]) -> str:
    rows = (
        (
            code(name),
            " or ".join(sorted(one.levels, key=events.LEVELS.index)),
            ", ".join(map(code, one.fields)),
            ", ".join(map(code, one.modules)),
            said.get(name, ""),
        )
        for name, one in events.log_events(package).items()
    )
    return table(("event", "level", "fields", "where", "meaning"), rows)


def _reasons_table() -> str:
    rows = ((code(name), *reason) for name, reason in reasons.EVENTS.items())
    return table(("reason", "on", "what happened", "what to do"), rows)


def _conditions_table() -> str:
    rows = ((code(kind), code(why), *said) for (kind, why), said in reasons.CONDITIONS.items())
    return table(("condition", "reason", "status", "meaning"), rows)


# -- custom resources -----------------------------------------------------------------------------


def crds_page() -> str:
    """Every field of every kind, out of deploy/crds."""
    intro = "What they are for, and what else is on objects: [Kubernetes API](../crds.md)."
    files = sorted((ROOT / "deploy" / "crds").glob("*.yaml"))
    return page(
        "Custom resources", intro, [_kind(yaml.safe_load(one.read_text())) for one in files]
    )


def _kind(body: Mapping[str, Any]) -> str:
    spec = body["spec"]
    (version,) = spec["versions"]
    title = f"## {spec['names']['kind']}\n\n`{spec['group']}/{version['name']}`, {spec['scope']}."
    schema = version["schema"]["openAPIV3Schema"]
    rows = [row for part in ("spec", "status") for row in _fields(schema["properties"], part)]
    return f"{title}\n\n{table(('field', 'type', 'required', 'meaning'), rows)}"


def _fields(
    properties: Mapping[str, Any], name: str, prefix: str = "", *, is_required: bool = False
) -> Iterator[tuple[str, str, str, str]]:
    if name not in properties:
        return
    field = properties[name]
    path = f"{prefix}{name}"
    needed = "yes" if is_required else ""
    yield code(path), _type(field), needed, field.get("description", "")
    inner = field.get("items", field)
    dot = "[]." if "items" in field else "."
    for child in inner.get("properties", {}):
        is_needed = child in inner.get("required", ())
        yield from _fields(inner["properties"], child, f"{path}{dot}", is_required=is_needed)


def _type(field: Mapping[str, Any]) -> str:
    kind = str(field.get("format") or field.get("type", ""))
    values = field.get("enum") or field.get("items", {}).get("enum")
    shown = f"{kind}: {', '.join(map(code, values))}" if values else kind
    return f"{shown}, default {code(str(field['default']))}" if "default" in field else shown


# -- chart ----------------------------------------------------------------------------------------


def chart_page() -> str:
    """Every value of the chart, out of values.yaml and the comments above each."""
    text = (ROOT / "deploy" / "helm" / "snapstart" / "values.yaml").read_text()
    rows = ((code(name), code(default), comment) for name, default, comment in chart_values(text))
    intro = "What [the chart](../helm.md) takes: `--set NAME=VALUE`, or a file of yours."
    return page("Values of the chart", intro, [table(("value", "default", "meaning"), rows)])


def chart_values(text: str) -> Iterator[tuple[str, str, str]]:
    """Name, default, comment of each value; a map below which nothing is explained is one value."""
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        bare, depth = line.strip(), (len(line) - len(line.lstrip())) // 2
        if bare.startswith("#"):
            comment.append(bare.lstrip("# "))
            continue
        name, _, default = bare.partition(":")
        if bare and not bare.startswith("-") and re.fullmatch(r"[A-Za-z]+", name):
            path[depth:] = [name]
            if default.strip() or comment:
                yield ".".join(path), default.strip(), " ".join(comment)
        comment = []


MAKERS: Final[Mapping[str, Callable[[], str]]] = {
    "metrics.md": metrics_page,
    "configuration.md": configuration_page,
    "cli.md": cli_page,
    "crds.md": crds_page,
    "chart.md": chart_page,
    "errors.md": errors_page,
    "events.md": events_page,
}


def main() -> None:
    """Write them all."""
    PAGES.mkdir(exist_ok=True)
    for name, make in MAKERS.items():
        (PAGES / name).write_text(make())


if __name__ == "__main__":
    main()
