"""Hold the options that every snapctl command understands."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from typing import Any, TypeVar

import click
import msgspec

from agentd.cli.tables import Table, print_table
from agentd.client.calls import Call
from agentd.client.transport import Transport

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])


class Settings:
    """The options of one invocation, and how it speaks to the daemon and to the caller."""

    def __init__(self) -> None:
        self.as_json = False
        self.socket: str | None = None

    def transport(self) -> closing[Transport]:
        """A connection to the daemon, for a `with` statement."""
        return closing(Transport(self.socket))

    def send(self, call: Call[T]) -> T:
        """Make one call."""
        with self.transport() as transport:
            return transport.send(call)

    def show(self, document: object, table: Callable[[], Table] | None = None) -> None:
        """Print the outcome: the document with --json, else the table, else nothing."""
        if self.as_json:
            print_json(document)
        elif table is not None:
            print_table(table())

    def say(self, text: str) -> None:
        """Print a line for people; nothing with --json."""
        if not self.as_json:
            click.echo(text)


def print_json(document: object) -> None:
    """Print one JSON document on stdout."""
    raw = msgspec.json.encode(document)
    sys.stdout.write(msgspec.json.format(raw, indent=2).decode() + "\n")


pass_settings = click.make_pass_decorator(Settings, ensure=True)


def _store_json(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(Settings).as_json = True


def _store_socket(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value:
        ctx.ensure_object(Settings).socket = value


def common_options(command: Command) -> Command:
    """Give a command --json and --socket; both may stand before or after its name."""
    as_json = click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        callback=_store_json,
        help="Print one JSON document on stdout and nothing else.",
    )
    socket = click.option(
        "--socket",
        metavar="PATH",
        expose_value=False,
        callback=_store_socket,
        help="agentd's socket [default: $SNAPSTART_SOCKET or /run/snapstart/agentd.sock].",
    )
    return as_json(socket(command))


def parse_pairs(
    _ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    """Option callback: KEY=VALUE, any number of times."""
    pairs = {}
    for value in values:
        key, equals, rest = value.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{value!r} is not KEY=VALUE", param=param)
        pairs[key] = rest
    return pairs
