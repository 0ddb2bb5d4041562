"""Run the `agentd` command."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

import click

from agentd import __version__
from agentd.cli.secrecy import keep_memory_private
from agentd.errors import ErrorCode, SnapStartError
from agentd.settings import Settings, example_env_file, example_file, load_settings, read_settings
from agentd.typed_settings import show_json, show_toml, tell

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
    """Serve until SIGTERM; sessions run on and are adopted by the next `agentd serve`.

    SIGHUP reads the settings again.
    """
    options = {
        "SNAPSTART_PATHS__DATA_DIR": data_dir and data_dir.absolute(),
        "SNAPSTART_PATHS__RUN_DIR": run_dir and run_dir.absolute(),
        "SNAPSTART_MONITOR__ACCEL": accel,
        "SNAPSTART_WARM__COUNT": warm,
    }
    given = {name: str(value) for name, value in options.items() if value is not None}

    def load() -> Settings:
        return load_settings(_choose_file(file), {**os.environ, **given})

    settings = load()
    keep_memory_private()
    from agentd.daemon import run

    run(settings, os.environ, load)


@root.group()
def config() -> None:
    """Look at the settings."""


@config.command()
@_config
@click.option("--json", "as_json", is_flag=True, help="One JSON object, also with problems.")
def check(file: Path | None, as_json: bool) -> None:
    """Validate the settings; print those in force, and where each comes from."""
    reading = read_settings(_choose_file(file), os.environ)
    if as_json:
        click.echo(show_json(reading))
    elif not reading.problems:
        click.echo(show_toml(reading), nl=False)
    for problem in reading.problems:
        click.echo(f"agentd: {tell(problem)}", err=True)
    if reading.problems:
        sys.exit(ErrorCode.CONFIG_INVALID.exit_code)


@config.command()
@click.option("--env", "is_env", is_flag=True, help="As variables, for systemd's EnvironmentFile.")
def example(is_env: bool) -> None:
    """Print every setting with its default, commented out: the start of a file of your own."""
    click.echo(example_env_file() if is_env else example_file(), nl=False)


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
