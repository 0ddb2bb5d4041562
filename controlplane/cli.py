"""Run the `snapstart-controlplane` command."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from agentd.log_setup import configure_logging
from agentd.typed_settings import Problem, example_toml, show_json, show_toml, tell
from controlplane.errors import ConfigError, ControlPlaneError
from controlplane.settings import Settings, load_settings, read_settings

_DEFAULT_CONFIG: Final = Path("/etc/snapstart/controlplane.toml")
_CONFIG_EXIT: Final = 11  # as agentd's for a setting that the operator has to change

_EXAMPLE_HEAD: Final = """\
Settings of snapstart-controlplane, all of them, commented out with their defaults. Made by
`snapstart-controlplane config example`. To be /etc/snapstart/controlplane.toml.
Remove the # before a setting to change it. Times are in seconds.
"""

_config = click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="SNAPSTART_CONTROLPLANE_CONFIG",
    help=f"Settings file (TOML); {_DEFAULT_CONFIG} if that exists.",
)


@click.group()
@click.version_option(package_name="agentcube-snapstart")
def root() -> None:
    """The SnapStart control plane."""


@root.command()
@_config
def serve(file: Path | None) -> None:
    """Serve until SIGTERM."""
    settings = load_settings(_choose_file(file), os.environ)
    configure_logging(settings.log.level, settings.log.format)
    from controlplane.server import run

    run(settings, os.environ)


@root.group()
def config() -> None:
    """Look at the settings."""


@config.command()
@_config
@click.option("--json", "as_json", is_flag=True, help="One JSON object, also with problems.")
def check(file: Path | None, as_json: bool) -> None:
    """Validate the settings; print those in force, and where each comes from."""
    reading = read_settings(_choose_file(file), os.environ).adding(*_store_problems())
    if as_json:
        click.echo(show_json(reading))
    elif not reading.problems:
        click.echo(show_toml(reading), nl=False)
    for problem in reading.problems:
        click.echo(f"snapstart-controlplane: {tell(problem)}", err=True)
    if reading.problems:
        sys.exit(_CONFIG_EXIT)


@config.command()
def example() -> None:
    """Print every setting with its default, commented out: the start of a file of your own."""
    click.echo(example_toml(Settings, _EXAMPLE_HEAD), nl=False)


def main() -> None:
    """Run the command; an error of ours becomes one line with an exit code of its own."""
    try:
        root()
    except ControlPlaneError as exc:
        click.echo(f"snapstart-controlplane: {exc}", err=True)
        sys.exit(_CONFIG_EXIT if isinstance(exc, ConfigError) else 1)


def _store_problems() -> Iterator[Problem]:
    """The artifact store is chosen by variables of its own; nothing is connected to."""
    from controlplane.store.config import choose_endpoint

    try:
        choose_endpoint(os.environ)
    except ConfigError as exc:
        yield Problem("", "the environment", exc.message, exc.hint)


def _choose_file(file: Path | None) -> Path | None:
    if file is not None:
        return file
    return _DEFAULT_CONFIG if _DEFAULT_CONFIG.exists() else None


if __name__ == "__main__":
    main()
