"""The `snapctl doctor` command."""

from __future__ import annotations

import os
from pathlib import Path

import click

from agentd.cli.doctor_checks import Host, Level, run_checks
from agentd.cli.settings import Settings, common_options, pass_settings
from agentd.cli.tables import Table
from agentd.client.calls import default_socket
from agentd.errors import ErrorCode


@click.command(
    epilog="\b\nExample:\n  snapctl doctor --json | jq '.checks[] | select(.level != \"ok\")'\n"
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    default=Path("/var/lib/snapstart"),
    show_default=True,
    help="Where agentd keeps templates.",
)
@common_options
@pass_settings
def doctor(settings: Settings, state_dir: Path) -> int:
    """Check this machine and the daemon; exit code 11 if something must be repaired."""
    socket = settings.socket or default_socket()
    checks = run_checks(Host(Path("/"), socket, state_dir.absolute(), os.environ))
    settings.show(
        {"checks": checks},
        lambda: Table(
            ("CHECK", "RESULT", "DETAIL", "WHAT TO DO"),
            [(one.name, one.level.value, one.detail, one.hint) for one in checks],
        ),
    )
    has_failed = any(one.level is Level.FAIL for one in checks)
    return ErrorCode.CONFIG_INVALID.exit_code if has_failed else 0
