"""Run a command group whose commands are imported when used, and answer errors with exit codes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import click

from agentd.cli.settings import print_json
from agentd.errors import ErrorCode, SnapStartError
from agentd.wire import api

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is used.

    Args: lazy: command name to `module:attribute`.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = dict(lazy or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order in which they were given."""
        return [*self._lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        if cmd_name not in self._lazy:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self._lazy[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command


class RootGroup(LazyGroup):
    """The program itself: turns every failure into a message on stderr and an exit code."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **extra: Any) -> Any:
        """Run and exit; codes are `ErrorCode.exit_code`, 2 for a bad command line."""
        argv = list(sys.argv[1:] if args is None else args)
        extra["standalone_mode"] = False
        sys.exit(self._run(argv, *more, **extra))

    def _run(self, argv: list[str], *more: Any, **extra: Any) -> int:
        as_json = "--json" in argv[: argv.index("--") if "--" in argv else None]
        try:
            outcome = super().main(argv, *more, **extra)
        except SnapStartError as exc:
            return report_error(exc.code, exc.message, exc.hint, as_json=as_json)
        except click.UsageError as exc:
            hint = f"see `{exc.ctx.command_path} --help`" if exc.ctx else ""
            message = exc.format_message()
            report_error(ErrorCode.REQUEST_INVALID, message, hint, as_json=as_json)
            return EXIT_USAGE
        except click.ClickException as exc:
            code = ErrorCode.REQUEST_INVALID
            return report_error(code, exc.format_message(), "", as_json=as_json)
        except (KeyboardInterrupt, click.Abort):
            print("interrupted", file=sys.stderr)
            return EXIT_INTERRUPTED
        except OSError as exc:
            hint = "check the path, its permissions and the space left on its disk"
            return report_error(ErrorCode.REQUEST_INVALID, str(exc), hint, as_json=as_json)
        except SystemExit:
            # click's only exit of its own in this mode: whoever read our output went away.
            return EXIT_BROKEN_PIPE
        return outcome if isinstance(outcome, int) else 0


def report_error(code: ErrorCode, message: str, hint: str, *, as_json: bool) -> int:
    """Print a failure where the caller looks for it; returns the exit code."""
    if as_json:
        body = api.ErrorBody(code=code.value, message=message, hint=hint)
        print_json(api.ErrorReply(error=body))
    else:
        print(f"error: {message}", file=sys.stderr)
        if hint:
            print(f"hint: {hint}", file=sys.stderr)
    return code.exit_code
