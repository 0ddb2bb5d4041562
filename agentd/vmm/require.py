"""Refuse what a monitor of this node cannot do, before it is tried."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from typing import Final

from agentd.errors import ConfigError, ErrorCode, PermanentError
from agentd.store.compatibility import classify_compatibility
from agentd.vmm.choose import choose_accelerator
from agentd.vmm.host import HostFacts
from agentd.wire.manifest import Manifest, VmmFacts

KVM_DEVICE: Final = "/dev/kvm"
_ANSWER_S: Final = 30.0


def find_program(name: str, hint: str) -> str:
    """The absolute path of a program. Raises: ConfigError MONITOR_MISSING."""
    path = shutil.which(name)
    if path is None:
        raise missing(f"looking for {name!r} in PATH: it is not there", hint)
    return os.path.abspath(path)


def ask_program(binary: str, question: str, hint: str) -> str:
    """What a program answers to an option. Raises: ConfigError MONITOR_MISSING."""
    try:
        done = subprocess.run(
            [binary, question],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ANSWER_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as exc:
        raise missing(f"asked {binary!r} for its {question}: {exc}", hint) from exc
    return done.stdout


def missing(message: str, hint: str) -> ConfigError:
    """The error for a program that is not there, or another one."""
    return ConfigError(ErrorCode.MONITOR_MISSING, message, hint=hint)


def require_access(monitor: object, needs: Iterable[tuple[str, int]]) -> None:
    """Make sure that files are there and may be used. needs: path, mode of access(2).

    Raises: ConfigError MONITOR_MISSING.
    """
    for path, mode in needs:
        if not os.access(path, mode):
            raise missing(
                f"checking {monitor!r}: {path!r} is not there or may not be used",
                "install it again, or restore its permissions",
            )


def require_kvm(monitor: str, host: HostFacts, *, is_unprivileged: bool) -> None:
    """Make sure that machines can use KVM: this monitor cannot emulate. Raises: ConfigError."""
    try:
        choose_accelerator("kvm", host, is_unprivileged=is_unprivileged)
    except ConfigError as exc:
        raise ConfigError(
            exc.code,
            f"opening {monitor}: {exc.message}",
            hint="correct that, or use QEMU, which can emulate",
        ) from exc


def require_compatible(monitor: object, manifest: Manifest, facts: VmmFacts) -> None:
    """Make sure that a template fits a monitor. Raises: PermanentError TEMPLATE_INCOMPATIBLE."""
    reasons = classify_compatibility(manifest, facts)
    if reasons:
        raise PermanentError(
            ErrorCode.TEMPLATE_INCOMPATIBLE,
            f"forking template {manifest.name!r} with {monitor!r}: {'; '.join(reasons)}",
            hint="build the template again on this node",
        )
