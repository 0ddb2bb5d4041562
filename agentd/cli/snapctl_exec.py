"""The `snapctl session exec` command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TextIO

import click

from agentd.cli.outcome import describe_failure, document_of, exit_code_of, save_results
from agentd.cli.settings import Settings, common_options, parse_pairs, pass_settings
from agentd.client import calls
from agentd.client.execution import Execution, ExecutionError, Notice, OutputMessage
from agentd.client.sandbox import EXECUTION_TIMEOUT_S, execute
from agentd.client.transport import Transport
from agentd.errors import SnapStartError
from agentd.wire import api


@click.command(
    "exec",
    epilog="\b\nExample:\n  snapctl session exec ID \"print('hello')\"\n"
    "  snapctl session exec ID --file plot.py --save-results out\n"
    "  generate-code | snapctl session exec ID -\n",
)
@click.argument("session_id", metavar="ID")
@click.argument("code", required=False)
@click.option(
    "--file", "-f", "source", type=click.File("r", encoding="utf-8"), help="Read the code from it."
)
@click.option(
    "--timeout",
    type=float,
    default=EXECUTION_TIMEOUT_S,
    show_default=True,
    help="Seconds until the code is interrupted; 0 for never.",
)
@click.option("--env", multiple=True, callback=parse_pairs, metavar="KEY=VALUE", help="Repeatable.")
@click.option("--max-output-bytes", type=click.IntRange(min=0), help="Of stdout and stderr each.")
@click.option("--max-result-bytes", type=click.IntRange(min=0), help="Of all rich results.")
@click.option(
    "--save-results",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write rich results (images, HTML, ...) to files there.",
)
@common_options
@pass_settings
def exec_(
    settings: Settings,
    session_id: str,
    code: str | None,
    source: TextIO | None,
    timeout: float,
    env: dict[str, str],
    max_output_bytes: int | None,
    max_result_bytes: int | None,
    save_results: Path | None,
) -> int:
    """Run Python code in a session; CODE, --file, or stdin.

    Output comes as it is printed, then the value of the last expression. Ctrl-C interrupts the
    code. Exit code: 0, 1 for an exception, the code's own for sys.exit(), 28 for a time-out.
    """
    wish = api.Execute(
        code=_choose_code(code, None if source is None else source.read()),
        timeout_s=timeout or None,
        env=env,
        max_output_bytes=max_output_bytes,
        max_result_bytes=max_result_bytes,
    )
    with settings.transport() as transport:
        done = _run(transport, session_id, wish, is_quiet=settings.as_json)
    saved = save_outcome(done, save_results)
    if settings.as_json:
        settings.show(document_of(done, saved))
    else:
        _print_end(done, saved)
    return exit_code_of(done)


def _choose_code(code: str | None, from_file: str | None) -> str:
    if code not in (None, "-") and from_file is not None:
        raise click.UsageError("give the code as an argument or with --file, not both")
    if from_file is not None:
        return from_file
    if code is not None and code != "-":
        return code
    if code is None and sys.stdin.isatty():
        raise click.UsageError("there is no code: give CODE, --file, or pipe it in")
    return sys.stdin.read()


def _run(transport: Transport, session_id: str, wish: api.Execute, *, is_quiet: bool) -> Execution:
    try:
        return execute(transport, session_id, wish, lambda n: None if is_quiet else _print(n))
    except KeyboardInterrupt:
        # The connection is gone with the exception, the code is not: stop it too.
        try:
            transport.send(calls.interrupt(session_id))
        except SnapStartError as exc:
            print(f"error: could not interrupt the code: {exc}", file=sys.stderr)
        raise


def _print(notice: Notice) -> None:
    if isinstance(notice, OutputMessage):
        stream = sys.stderr if notice.error else sys.stdout
        stream.write(notice.line)
        stream.flush()
    elif isinstance(notice, ExecutionError):
        text = notice.traceback or f"{notice.name}: {notice.value}"
        print(text, file=sys.stderr)


def save_outcome(done: Execution, directory: Path | None) -> list[Path]:
    """Write the results where the caller wants them, if anywhere."""
    return [] if directory is None else save_results(done.results, directory)


def _print_end(done: Execution, saved: list[Path]) -> None:
    if done.text is not None:
        click.echo(done.text)
    for path in saved:
        print(f"saved {path}", file=sys.stderr)
    for name, is_cut in (("stdout", done.stdout_truncated), ("stderr", done.stderr_truncated)):
        if is_cut:
            print(f"note: {name} was cut off; see --max-output-bytes", file=sys.stderr)
    failure = describe_failure(done)
    if failure:
        print(f"error: {failure}", file=sys.stderr)
    if done.namespace_lost:
        print("hint: the session's variables are gone; it has a fresh interpreter", file=sys.stderr)
