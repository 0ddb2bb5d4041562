"""The `snapctl doctor` command."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Final

import click

from agentd.cli.doctor_checks import DAEMON, Check, Host, Level, run_checks
from agentd.cli.settings import Settings, common_options, pass_settings
from agentd.cli.tables import Table
from agentd.client.calls import default_socket
from agentd.errors import ErrorCode, SnapStartError
from agentd.settings import Kuasar, load_settings
from agentd.settings import Settings as AgentdSettings

_DEFAULT_CONFIG: Final = Path("/etc/snapstart/agentd.toml")


@click.command(
    epilog="\b\nExample:\n  snapctl doctor --json | jq '.checks[] | select(.level != \"ok\")'\n"
    "  snapctl doctor --provider snapstart.kuasar.io\n"
    "  snapctl doctor --pager\n"
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    help="Where agentd keeps templates [default: paths.data_dir of its settings].",
)
@click.option(
    "--provider",
    metavar="NAME",
    help="What to check: snapstart.qemu.org (the default) or snapstart.kuasar.io.",
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="SNAPSTART_CONFIG",
    help="agentd's settings file, which names the sockets of a Kuasar node and of the page server; "
    f"{_DEFAULT_CONFIG} if that exists.",
)
@click.option("--pager", is_flag=True, help="Check the page server, and what it needs, as well.")
@common_options
@pass_settings
def doctor(
    settings: Settings,
    state_dir: Path | None,
    provider: str | None,
    config_file: Path | None,
    pager: bool,
) -> int:
    """Check this machine and the daemon; exit code 11 if something must be repaired."""
    checks = (
        _check_machine(settings, state_dir, config_file)
        if provider is None
        else _check_provider(settings, state_dir, provider, config_file)
    )
    if pager:
        checks += _check_pager(settings, state_dir, config_file)
    settings.show(
        {"checks": [one.document() for one in checks]},
        lambda: Table(
            ("CHECK", "RESULT", "DETAIL", "WHAT TO DO"),
            [(one.name, one.level.value, one.detail, one.hint) for one in checks],
        ),
    )
    has_failed = any(one.level is Level.FAIL for one in checks)
    return ErrorCode.CONFIG_INVALID.exit_code if has_failed else 0


def _check_machine(
    settings: Settings, state_dir: Path | None, config_file: Path | None
) -> list[Check]:
    """Settings that cannot be read are one of the things that are told."""
    from agentd.cli.doctor_machine import Machine, run_machine_checks

    problem = ""
    try:
        agentd = _agentds_settings(config_file)
    except SnapStartError as exc:
        problem, agentd = exc.message, load_settings(None, {})
    host = _host(settings, state_dir, agentd)
    return run_machine_checks(Machine(host, agentd, problem))


def _host(settings: Settings, state_dir: Path | None, agentd: AgentdSettings) -> Host:
    socket = settings.socket or default_socket()
    return Host(Path("/"), socket, (state_dir or agentd.data_dir).absolute(), os.environ)


def _check_provider(
    settings: Settings, state_dir: Path | None, provider: str, config_file: Path | None
) -> list[Check]:
    """Raises: click.BadParameter for a provider that is not known; ConfigError."""
    from agentd.providers.local import PROVIDER as QEMU

    agentd = _agentds_settings(config_file)
    known = [QEMU, *dict.fromkeys((Kuasar().provider, agentd.kuasar.provider))]
    if provider not in known:
        message = f"{provider!r} is not known here; use one of {', '.join(known)}"
        raise click.BadParameter(message, param_hint="'--provider'")
    if provider == QEMU:
        return _check_machine(settings, state_dir, config_file)
    return _check_kuasar(settings, state_dir, agentd)


def _check_kuasar(
    settings: Settings, state_dir: Path | None, agentd: AgentdSettings
) -> list[Check]:
    from agentd.cli.doctor_kuasar import Node, run_kuasar_checks

    socket = settings.socket or os.environ.get("SNAPSTART_SOCKET") or str(agentd.socket)
    host = Host(Path("/"), socket, (state_dir or agentd.data_dir).absolute(), os.environ)
    node = Node(agentd, host.read("proc/self/mountinfo"), time.time())
    return run_checks(host, DAEMON) + run_kuasar_checks(node)


def _check_pager(
    settings: Settings, state_dir: Path | None, config_file: Path | None
) -> list[Check]:
    """Raises: ConfigError."""
    from agentd.cli.doctor_machine import some_machine_uid
    from agentd.cli.doctor_pager import (
        PagerNode,
        Probes,
        ask_systemctl,
        run_pager_checks,
    )
    from agentd.monitors import make_pager_place

    agentd = _agentds_settings(config_file)
    node = PagerNode(
        _host(settings, state_dir, agentd),
        make_pager_place(agentd),
        agentd.pager.enabled == "off",
        some_machine_uid(agentd),
        agentd.machines.memory_mib,
        Probes(),
        ask_systemctl,
    )
    return run_pager_checks(node)


def _agentds_settings(file: Path | None) -> AgentdSettings:
    """agentd is given its node's name by whoever starts it, an operator's shell seldom has it."""
    return load_settings(_choose_file(file), {"NODE_NAME": platform.node(), **os.environ})


def _choose_file(file: Path | None) -> Path | None:
    if file is not None:
        return file
    return _DEFAULT_CONFIG if _DEFAULT_CONFIG.exists() else None
