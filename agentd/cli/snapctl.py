"""The command line of users and operators: one program over the local API."""

from __future__ import annotations

import click

from agentd import __version__
from agentd.cli.root import RootGroup
from agentd.cli.settings import common_options

_COMMANDS = {
    "image": "agentd.cli.snapctl_image:image",
    "template": "agentd.cli.snapctl_template:template",
    "session": "agentd.cli.snapctl_session:session",
    "fork": "agentd.cli.snapctl_fork:fork",
    "snapshot": "agentd.cli.snapctl_snapshot:snapshot",
    "why": "agentd.cli.snapctl_why:why",
    "top": "agentd.cli.snapctl_top:top",
    "doctor": "agentd.cli.snapctl_doctor:doctor",
    "demo": "agentd.cli.snapctl_demo:demo",
    "report": "agentd.cli.snapctl_report:report",
    "trace": "agentd.cli.snapctl_trace:trace",
}

_EPILOG = """\b
Example:
  snapctl template create python --image "$(snapctl image build)"
  snapctl session exec "$(snapctl session create python)" "1 + 1"

\b
Shell completion:
  eval "$(_SNAPCTL_COMPLETE=bash_source snapctl)"    (also zsh_source, fish_source)

\b
Exit codes: 0 success, 1 the code raised an exception, 2 bad command line,
10-66 one for each error code, 130 interrupted.
"""


@click.group(cls=RootGroup, lazy=_COMMANDS, epilog=_EPILOG)
@click.version_option(__version__, prog_name="snapctl")
@common_options
def snapctl() -> None:
    """Fork warm Python microVMs: on this node, or through a cluster."""


def main() -> None:
    """Entry point."""
    snapctl(prog_name="snapctl")
