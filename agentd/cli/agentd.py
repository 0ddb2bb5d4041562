"""Run the `agentd` command."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

import click

from agentd import __version__
from agentd.errors import SnapStartError
from agentd.settings import Settings, describe, load_settings

_DEFAULT_CONFIG: Final = Path("/etc/snapstart/agentd.toml")

_config = click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="SNAPSTART_CONFIG",
    help=f"Settings file (TOML); {_DEFAULT_CONFIG} if that exists.",
)


@click.group()
@click.version_option(__version__, prog_name="agentd")
def root() -> None:
    """The SnapStart node agent."""


@root.command()
@_config
@click.option("--data-dir", type=click.Path(path_type=Path), help="Replaces paths.data_dir.")
@click.option("--run-dir", type=click.Path(path_type=Path), help="Replaces paths.run_dir.")
@click.option("--accel", type=click.Choice(["auto", "kvm", "tcg"]), help="Replaces monitor.accel.")
@click.option("--warm", type=click.IntRange(0, 1000), help="Replaces warm.count.")
def serve(
    file: Path | None,
    data_dir: Path | None,
    run_dir: Path | None,
    accel: str | None,
    warm: int | None,
) -> None:
    """Serve until SIGTERM; sessions run on and are adopted by the next `agentd serve`."""
    options = {
        "SNAPSTART_PATHS__DATA_DIR": data_dir and data_dir.absolute(),
        "SNAPSTART_PATHS__RUN_DIR": run_dir and run_dir.absolute(),
        "SNAPSTART_MONITOR__ACCEL": accel,
        "SNAPSTART_WARM__COUNT": warm,
    }
    given = {name: str(value) for name, value in options.items() if value is not None}
    settings = load_settings(_choose_file(file), {**os.environ, **given})
    from agentd.daemon import run

    run(settings, os.environ)


@root.group()
def config() -> None:
    """Look at the settings."""


@config.command()
@_config
def check(file: Path | None) -> None:
    """Validate the settings; print those in force."""
    settings: Settings = load_settings(_choose_file(file), os.environ)
    for group, fields in describe(settings).items():
        click.echo(f"[{group}]")
        for name, value in fields.items():
            shown = value if isinstance(value, int | float) else f'"{value or ""}"'
            click.echo(f"{name} = {shown}")


def main() -> None:
    """Run the command; an error of ours becomes one line, its exit code that of the error."""
    try:
        root()
    except SnapStartError as exc:
        click.echo(f"agentd: {exc}", err=True)
        sys.exit(exc.code.exit_code)


def _choose_file(file: Path | None) -> Path | None:
    if file is not None:
        return file
    return _DEFAULT_CONFIG if _DEFAULT_CONFIG.exists() else None


if __name__ == "__main__":
    main()
