"""Start the runtime: as PID 1 of a VM of ours, or as a container's entry point."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from dataclasses import replace
from typing import NoReturn

from agentd.guest import boot
from agentd.guest.effects import SystemEffects
from agentd.guest.port import Port, open_port
from agentd.guest.settings import (
    Settings,
    SettingsError,
    container_settings,
    load_image_file,
    vm_settings,
)
from agentd.guest.streams import Hub
from agentd.guest.supervisor import MakeEffects, Supervisor
from agentd.guest.vsock_port import VsockPort, has_vsock, listen

IMAGE_FILE = "/etc/snapstart/runtime.json"
PORT_DEADLINE_S = 30.0
DEFAULT_HTTP_PORT = 8080
EXIT_USAGE = 2


def main(make_effects: MakeEffects | None = None) -> NoReturn:
    """Run until told to end; never returns.

    Args: make_effects: for images made to test what happens when a fork is not renewed: their own
    /init passes it. Nothing that a host sends and no setting can change the effects.
    """
    if os.getpid() == 1 and "--container" not in sys.argv[1:]:
        _run_vm(make_effects)
    _run_container(make_effects or SystemEffects, _parse_arguments(sys.argv[1:]))


def _parse_arguments(arguments: list[str]) -> int:
    """The HTTP port of a container; ends the process when the arguments are wrong."""
    match arguments:
        case ["--container"]:
            return DEFAULT_HTTP_PORT
        case ["--container", "--port", port] if port.isdecimal() and 0 < int(port) < 65536:
            return int(port)
    print("usage: python3 -m agentd.guest --container [--port PORT]", file=sys.stderr)
    sys.exit(EXIT_USAGE)


def _vm_effects(make_effects: MakeEffects | None) -> MakeEffects:
    if make_effects is not None:
        return make_effects
    return lambda settings, session, renew: SystemEffects(
        settings, session, renew, boot_id_file=boot.BOOT_ID_FILE
    )


def _run_vm(make_effects: MakeEffects | None) -> NoReturn:
    """PID 1 must not return: whatever happens, the VM is powered off."""
    try:
        boot.bring_up()
        boot.report("devices ready")
        settings = vm_settings(load_image_file(IMAGE_FILE))
        if not boot.make_cgroups(settings):
            settings = replace(settings, cgroup="", http_cgroup="")
        boot.prepare_directories(settings)
        boot.protect_self()
        os.environ.clear()
        supervisor = Supervisor(settings, _vm_effects(make_effects))
        supervisor.start()
        boot.report("interpreter warm")
        _serve_port(supervisor)
        boot.report(f"ends with status {supervisor.exit_status}:", [supervisor.exit_reason])
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    boot.end_machine()
    os._exit(1)


def _serve_port(supervisor: Supervisor) -> None:
    supervisor.wait_for_session()
    port = _open_port(supervisor)
    supervisor.loop.on_batch_end = port.flush
    supervisor.checkpoint.take_baseline()
    boot.report("waiting for a host")
    supervisor.loop.run()
    port.flush()


def _open_port(supervisor: Supervisor) -> Port | VsockPort:
    hub = Hub(supervisor.services())
    if has_vsock():
        return VsockPort(supervisor.loop, listen(), hub)
    return Port(supervisor.loop, open_port(PORT_DEADLINE_S), hub)


def _run_container(make_effects: MakeEffects, http_port: int) -> NoReturn:
    try:
        image = load_image_file(os.environ.get("SNAPSTART_RUNTIME_FILE", IMAGE_FILE))
        settings = container_settings(image, os.environ, is_root=os.getuid() == 0)
        settings = replace(settings, http_port=http_port)
        _check_workspace(settings)
    except (SettingsError, OSError) as exc:
        print(f"snapstart: {exc}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    supervisor = Supervisor(settings, make_effects)
    try:
        supervisor.start()
        supervisor.wait_for_session()
        supervisor.loop.run()
    finally:
        supervisor.close()
    if supervisor.exit_status:
        print(f"snapstart: {supervisor.exit_reason}", file=sys.stderr)
    sys.exit(supervisor.exit_status)


def _check_workspace(settings: Settings) -> None:
    with suppress(PermissionError):
        boot.prepare_directories(settings)
    if not os.path.isdir(settings.workspace):
        raise SettingsError(f"the workspace {settings.workspace!r} is not a directory")


if __name__ == "__main__":
    main()
