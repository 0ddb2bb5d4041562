"""Run the `snapstart-controlplane` command."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

import click

from controlplane.errors import ConfigError, ControlPlaneError
from controlplane.log import configure_logging
from controlplane.settings import describe, load_settings

_DEFAULT_CONFIG: Final = Path("/etc/snapstart/controlplane.toml")
_CONFIG_EXIT: Final = 11  # as agentd's for a setting that the operator has to change

_config = click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="SNAPSTART_CONTROLPLANE_CONFIG",
    help=f"Settings file (TOML); {_DEFAULT_CONFIG} if that exists.",
)


@click.group()
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
def check(file: Path | None) -> None:
    """Validate the settings; print those in force."""
    for group, fields in describe(load_settings(_choose_file(file), os.environ)).items():
        click.echo(f"[{group}]")
        for name, value in fields.items():
            click.echo(f"{name} = {_shown(value)}")


def main() -> None:
    """Run the command; an error of ours becomes one line with an exit code of its own."""
    try:
        root()
    except ControlPlaneError as exc:
        click.echo(f"snapstart-controlplane: {exc}", err=True)
        sys.exit(_CONFIG_EXIT if isinstance(exc, ConfigError) else 1)


def _choose_file(file: Path | None) -> Path | None:
    if file is not None:
        return file
    return _DEFAULT_CONFIG if _DEFAULT_CONFIG.exists() else None


def _shown(value: object) -> str:
    """As TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_shown(one) for one in value)}]"
    return f'"{value or ""}"'


if __name__ == "__main__":
    main()
