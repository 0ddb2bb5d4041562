"""The `snapctl fork` command: many sessions of one template at once, timed."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import click

from agentd.cli.outcome import EXIT_EXCEPTION, exit_code_of
from agentd.cli.settings import Settings, common_options, pass_settings
from agentd.cli.tables import Table, ms
from agentd.client import calls
from agentd.client.execution import Execution
from agentd.client.sandbox import execute
from agentd.client.transport import Transport
from agentd.errors import SnapStartError
from agentd.wire import api

STAGES = ("spawn", "load", "resume", "inject", "guest_ready", "total")
_MAX_FORKS = 256


@dataclass
class Fork:
    """One fork as the caller saw it. wall_ms: request to running; exec_ms: code to result."""

    number: int
    session: str = ""
    stages_ms: dict[str, float] = field(default_factory=dict)
    wall_ms: float | None = None
    exec_ms: float | None = None
    status: str = ""
    output: str = ""
    error: api.ErrorBody | None = None
    exit_code: int = 0


@click.command(
    epilog="\b\nExample:\n  snapctl fork python --count 8 --exec "
    '"import numpy; numpy.random.random()"\n'
)
@click.argument("template")
@click.option(
    "--count",
    "-n",
    type=click.IntRange(1, _MAX_FORKS),
    default=1,
    show_default=True,
    help="How many, all at the same time.",
)
@click.option("--exec", "code", metavar="CODE", help="Run this in each fork.")
@click.option("--timeout", type=float, default=60.0, show_default=True, help="Seconds, per step.")
@click.option("--keep", is_flag=True, help="Leave the sessions running.")
@common_options
@pass_settings
def fork(
    settings: Settings, template: str, count: int, code: str | None, timeout: float, keep: bool
) -> int:
    """Fork a template many times at once and show where the time went."""
    began = time.perf_counter()
    with settings.transport() as transport, ThreadPoolExecutor(count, "fork") as pool:
        jobs = [
            pool.submit(_fork, transport, number, template, code, timeout, keep)
            for number in range(1, count + 1)
        ]
        forks = [job.result() for job in jobs]
    wall_ms = (time.perf_counter() - began) * 1e3
    settings.show({"template": template, "wall_ms": wall_ms, "forks": forks}, lambda: _table(forks))
    settings.say(f"{count} in {wall_ms:.1f} ms")
    return next((one.exit_code for one in forks if one.exit_code), 0)


def _fork(
    transport: Transport, number: int, template: str, code: str | None, timeout_s: float, keep: bool
) -> Fork:
    made = Fork(number)
    try:
        began = time.perf_counter()
        wish = api.CreateSession(template=template, deadline_s=timeout_s)
        session = transport.send(calls.create_session(wish))
        made.wall_ms = (time.perf_counter() - began) * 1e3
        made.session, made.stages_ms = session.id, session.stages_ms
        try:
            if code is not None:
                _run(transport, made, code, timeout_s)
        finally:
            if not keep:
                transport.send(calls.end_session(session.id))
    except SnapStartError as exc:
        made.error = api.ErrorBody(code=exc.code.value, message=exc.message, hint=exc.hint)
        made.exit_code = exc.code.exit_code
    return made


def _run(transport: Transport, made: Fork, code: str, timeout_s: float) -> None:
    began = time.perf_counter()
    wish = api.Execute(code=code, timeout_s=timeout_s)
    done = execute(transport, made.session, wish, lambda _notice: None)
    made.exec_ms = (time.perf_counter() - began) * 1e3
    made.status, made.output = done.status, _output(done)
    made.exit_code = exit_code_of(done)
    if done.error is not None:
        made.exit_code = EXIT_EXCEPTION


def _output(done: Execution) -> str:
    if done.error is not None:
        return f"{done.error.name}: {done.error.value}"
    return done.text if done.text is not None else "".join(done.logs.stdout).strip()


def _table(forks: list[Fork]) -> Table:
    stages = [name for name in STAGES if any(name in one.stages_ms for one in forks)]
    has_run = any(one.status for one in forks)
    columns = ["#", "SESSION", *(name.upper() for name in stages), "WALL"]
    columns += ["EXEC", "OUTPUT"] if has_run else []
    if any(one.error for one in forks):
        columns.append("ERROR")
    rows = []
    for one in forks:
        row = [str(one.number), one.session or "-"]
        row += [ms(one.stages_ms.get(name)) for name in stages]
        row.append(ms(one.wall_ms))
        row += [ms(one.exec_ms), one.output] if has_run else []
        if "ERROR" in columns:
            row.append(one.error.message if one.error else "")
        rows.append(row)
    text = {"SESSION", "OUTPUT", "ERROR"}
    return Table(columns, rows, title="milliseconds", numeric=frozenset(columns) - text)
