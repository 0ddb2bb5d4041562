"""Which accelerator, which user."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentd.errors import ConfigError, ErrorCode
from agentd.vmm.choose import choose_accelerator, choose_user
from agentd.vmm.host import DeviceAccess, HostFacts
from agentd.vmm.qemu_argv import KVM, TCG
from agentd.vmm.require import find_program

KVM_GID = 108
FOR_ALL = DeviceAccess(0o666, KVM_GID)
FOR_GROUP = DeviceAccess(0o660, KVM_GID)
FOR_ROOT = DeviceAccess(0o600, 0)
FOR_ROOTS_GROUP = DeviceAccess(0o660, 0)
BASE = 1_900_000_000


def host(kvm: DeviceAccess | None, *, flag: bool = True) -> HostFacts:
    return HostFacts(cpu="x", tsc_khz=0, has_virtualization=flag, kvm=kvm)


@pytest.mark.parametrize(
    ("wish", "facts", "unprivileged", "chosen"),
    [
        ("auto", host(FOR_ALL), True, KVM),
        ("auto", host(FOR_GROUP), True, KVM),
        ("auto", host(FOR_ROOT), True, TCG),
        ("auto", host(FOR_ROOT), False, KVM),
        ("auto", host(FOR_ROOTS_GROUP), True, TCG),
        ("auto", host(FOR_ALL, flag=False), True, TCG),
        ("auto", host(None), False, TCG),
        ("tcg", host(FOR_ALL), False, TCG),
        ("kvm", host(FOR_ALL), True, KVM),
    ],
    ids=[
        "open_to_all",
        "open_to_its_group",
        "roots_alone",
        "roots_alone_and_we_are_root",
        "roots_group_which_no_machine_gets",
        "paravirtual_without_cpu_flag",
        "no_device",
        "emulation_demanded",
        "kvm_demanded",
    ],
)
def test_the_accelerator(wish: str, facts: HostFacts, unprivileged: bool, chosen: object) -> None:
    assert choose_accelerator(wish, facts, is_unprivileged=unprivileged) == chosen


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (host(FOR_ALL, flag=False), "svm or vmx"),
        (host(None), "/dev/kvm does not open"),
        (host(FOR_ROOT), "/dev/kvm has mode 0600"),
        (host(FOR_ROOTS_GROUP), "/dev/kvm has mode 0660"),
    ],
    ids=["no_cpu_flag", "no_device", "mode", "roots_group"],
)
def test_kvm_that_is_demanded_but_unusable_is_refused(facts: HostFacts, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        choose_accelerator("kvm", facts, is_unprivileged=True)
    assert caught.value.code is ErrorCode.CONFIG_INVALID
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("facts", "accelerator", "gid"),
    [
        (host(FOR_GROUP), KVM, KVM_GID),
        (host(FOR_ALL), KVM, None),
        (host(FOR_GROUP), TCG, None),
        (host(None), TCG, None),
    ],
    ids=["kvm_by_group", "kvm_for_all", "emulated_machines_do_not_need_it", "no_kvm"],
)
def test_a_machine_gets_the_group_of_kvm_only_if_it_needs_it(
    facts: HostFacts, accelerator: object, gid: int | None
) -> None:
    user_of = choose_user(BASE, facts, 0, accelerator)  # type: ignore[arg-type]
    user = user_of("s-00ff")
    assert user == (BASE + 0xFF, gid or BASE + 0xFF)


def test_machines_of_different_ids_run_as_different_users() -> None:
    user_of = choose_user(BASE, host(None), 0, TCG)
    users = {user_of(f"s-{number:016x}") for number in range(1000)}
    assert len(users) == 1000
    assert all(user and BASE <= user[0] < BASE + 200_000_000 for user in users)


def test_an_id_without_hexadecimal_digits_still_gets_a_user() -> None:
    assert choose_user(BASE, host(None), 0, TCG)("zzz") == (BASE, BASE)


@pytest.mark.parametrize(("base", "euid"), [(0, 0), (BASE, 1000)], ids=["switched_off", "not_root"])
def test_otherwise_machines_run_as_ourselves(base: int, euid: int) -> None:
    assert choose_user(base, host(FOR_GROUP), euid, KVM)("s-1") is None


def test_a_program_that_is_not_in_the_path_is_missing() -> None:
    with pytest.raises(ConfigError) as caught:
        find_program("qemu-system-none", "install it")
    assert caught.value.code is ErrorCode.MONITOR_MISSING


def test_a_program_is_found_as_an_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "qemu"
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    assert find_program("./qemu", "install it") == str(program)
