"""The `snapctl session` commands, except `exec` and `cp`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from agentd.cli.root import LazyGroup
from agentd.cli.settings import Settings, common_options, parse_pairs, pass_settings
from agentd.cli.tables import Table, age, ms
from agentd.client import calls
from agentd.wire import api


@click.group(
    cls=LazyGroup,
    lazy={
        "exec": "agentd.cli.snapctl_exec:exec_",
        "cp": "agentd.cli.snapctl_cp:cp",
    },
)
def session() -> None:
    """Start sessions and work in them."""


@session.command(
    epilog="\b\nExample:\n  snapctl session create python --ttl 600 --env LANG=C --file data.csv\n"
)
@click.argument("template")
@click.option("--cold", is_flag=True, help="Boot a machine of its own instead of forking.")
@click.option("--ttl", type=float, help="Seconds until the session is ended.")
@click.option("--idle-timeout", type=float, help="Seconds without use until it is ended.")
@click.option("--deadline", type=float, help="Seconds the start may take.")
@click.option("--env", multiple=True, callback=parse_pairs, metavar="KEY=VALUE", help="Repeatable.")
@click.option(
    "--metadata", multiple=True, callback=parse_pairs, metavar="KEY=VALUE", help="Repeatable."
)
@click.option(
    "--file",
    "files",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Put a file into the workspace, under its own name; repeatable, 1 MiB in all.",
)
@common_options
@pass_settings
def create(
    settings: Settings,
    template: str,
    cold: bool,
    ttl: float | None,
    idle_timeout: float | None,
    deadline: float | None,
    env: dict[str, str],
    metadata: dict[str, str],
    files: tuple[Path, ...],
) -> None:
    """Start a session and print its id."""
    wish = api.CreateSession(
        template=template,
        mode=api.SessionMode.COLD if cold else api.SessionMode.FORK,
        ttl_s=ttl,
        idle_timeout_s=idle_timeout,
        deadline_s=deadline,
        env=env,
        metadata=metadata,
        files={path.name: path.read_bytes() for path in files},
    )
    made = settings.send(calls.create_session(wish))
    settings.show(made)
    settings.say(made.id)


@session.command("list", epilog="\b\nExample:\n  snapctl session list\n")
@common_options
@pass_settings
def list_(settings: Settings) -> None:
    """List the sessions."""
    reply = settings.send(calls.list_sessions())
    now = datetime.now(UTC)
    settings.show(
        reply,
        lambda: Table(
            ("ID", "TEMPLATE", "MODE", "STATE", "AGE", "IDLE", "START MS", "PID"),
            [
                (
                    one.id,
                    one.template,
                    one.mode.value,
                    one.state.value,
                    age(one.created_at, now),
                    age(one.last_used_at, now),
                    ms(one.stages_ms.get("total")),
                    str(one.pid or "-"),
                )
                for one in reply.sessions
            ],
            numeric=frozenset({"AGE", "IDLE", "START MS", "PID"}),
            empty="no sessions; start one with `snapctl session create TEMPLATE`",
        ),
    )


@session.command(epilog="\b\nExample:\n  snapctl session show ID\n")
@click.argument("session_id", metavar="ID")
@common_options
@pass_settings
def show(settings: Settings, session_id: str) -> None:
    """Show one session."""
    one = settings.send(calls.show_session(session_id))
    rows = [
        ("id", one.id),
        ("template", one.template),
        ("mode", one.mode.value),
        ("state", one.state.value),
        ("hostname", one.hostname),
        ("pid", str(one.pid or "-")),
        ("created", one.created_at),
        ("expires", one.expires_at or "-"),
        ("last used", one.last_used_at or "-"),
        *((f"stage {stage}", f"{ms(value)} ms") for stage, value in one.stages_ms.items()),
        *((f"metadata {key}", value) for key, value in one.metadata.items()),
    ]
    if one.ended_reason:
        rows.append(("ended because", one.ended_reason))
    settings.show(one, lambda: Table(("MEMBER", "VALUE"), rows))


@session.command(epilog="\b\nExample:\n  snapctl session ls ID\n")
@click.argument("session_id", metavar="ID")
@click.argument("path", default=".")
@common_options
@pass_settings
def ls(settings: Settings, session_id: str, path: str) -> None:
    """List a directory of a session, its workspace by default."""
    reply = settings.send(calls.list_files(session_id, path))
    settings.show(
        reply,
        lambda: Table(
            ("SIZE", "MODIFIED", "KIND", "PATH"),
            [
                (
                    str(one.size),
                    datetime.fromtimestamp(one.mtime_s, UTC).strftime("%Y-%m-%d %H:%M:%S"),
                    one.kind,
                    one.path,
                )
                for one in reply.entries
            ],
            numeric=frozenset({"SIZE"}),
            empty="empty",
        ),
    )


@session.command(epilog="\b\nExample:\n  snapctl session rm ID\n  snapctl session rm ID:data.csv\n")
@click.argument("targets", nargs=-1, required=True, metavar="ID[:PATH]...")
@common_options
@pass_settings
def rm(settings: Settings, targets: tuple[str, ...]) -> None:
    """End sessions, or with ID:PATH remove files inside them."""
    with settings.transport() as transport:
        for target in targets:
            session_id, colon, path = target.partition(":")
            call = calls.end_session(session_id)
            transport.send(calls.remove_file(session_id, path) if colon else call)
            settings.say(f"removed {target}")
    settings.show({"removed": list(targets)})


@session.command(epilog="\b\nExample:\n  snapctl session interrupt ID\n")
@click.argument("session_id", metavar="ID")
@click.option("--restart", is_flag=True, help="Start a fresh interpreter; variables are lost.")
@common_options
@pass_settings
def interrupt(settings: Settings, session_id: str, restart: bool) -> None:
    """Raise KeyboardInterrupt in what a session runs."""
    call = calls.restart(session_id) if restart else calls.interrupt(session_id)
    settings.send(call)
    settings.show({"session": session_id, "restarted": restart})
    settings.say(f"{'restarted' if restart else 'interrupted'} {session_id}")
