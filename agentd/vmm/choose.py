"""Choose how machines run on a host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from agentd.errors import ConfigError, ErrorCode
from agentd.vmm.host import HostFacts
from agentd.vmm.qemu_argv import KVM, TCG, Accelerator

# systemd's UIDS-GIDS leaves 1,879,048,192 to 2,147,483,647 unused. A machine's id picks one of 200
# million, so two machines of a node hardly ever share a uid.
_UID_SPAN: Final = 200_000_000

UserOf = Callable[[str], tuple[int, int] | None]


def choose_accelerator(wish: str, host: HostFacts, *, is_unprivileged: bool) -> Accelerator:
    """KVM where machines can use it, else emulation.

    Args: wish: auto, kvm or tcg. is_unprivileged: machines run as users of their own.
    Raises: ConfigError when KVM is demanded but cannot be used.
    """
    problem = _kvm_problem(host, is_unprivileged=is_unprivileged)
    if wish == "kvm" and problem:
        raise ConfigError(
            ErrorCode.CONFIG_INVALID,
            f"choosing the accelerator: KVM is demanded, but {problem}",
            hint="set [monitor] accel to auto or tcg, or correct that",
        )
    return TCG if wish == "tcg" or problem else KVM


def _kvm_problem(host: HostFacts, *, is_unprivileged: bool) -> str:
    if not host.has_virtualization:
        return "the CPU does not show svm or vmx"
    if host.kvm is None:
        return "/dev/kvm does not open or does not answer"
    reachable = host.kvm.is_open_to_all or host.kvm.is_open_to_group
    if is_unprivileged and not reachable:
        return f"/dev/kvm has mode {host.kvm.mode:04o}, so the machines' users cannot open it"
    return ""


def choose_user(uid_base: int, host: HostFacts, euid: int, accelerator: Accelerator) -> UserOf:
    """Who each machine runs as: a uid derived from its id when we are root, else ourselves.

    Args: uid_base: 0 keeps machines under our own user. accelerator: with KVM a machine gets the
    group of /dev/kvm if it needs that, else a group of its own.
    """
    if euid != 0 or uid_base == 0:
        return lambda _vm_id: None
    kvm = host.kvm if accelerator == KVM else None
    kvm_gid = kvm.gid if kvm and kvm.is_open_to_group and not kvm.is_open_to_all else 0

    def user_of(vm_id: str) -> tuple[int, int] | None:
        digits = "".join(letter for letter in vm_id if letter in "0123456789abcdef")
        uid = uid_base + int(digits[-7:] or "0", 16) % _UID_SPAN
        return uid, kvm_gid or uid

    return user_of
