"""The command line, word for word."""

from __future__ import annotations

import json

import pytest

from agentd.vmm import qemu_argv
from agentd.vmm.qemu_argv import KVM, TCG, Accelerator, boot_argv, device_argv, fork_argv
from agentd.wire.manifest import Machine
from bench import bare_fork

SHAPE = Machine(memory_mib=512, vcpus=1)
NAME = "snapstart/inst/s-1"

DEVICES = (
    *("-cpu", "qemu64,+rdrand"),
    *("-m", "512"),
    *("-smp", "1"),
    *("-nodefaults", "-no-user-config", "-display", "none", "-vga", "none"),
    *("-chardev", "ringbuf,id=console,size=65536", "-serial", "chardev:console"),
    *("-device", "virtio-serial-pci"),
    *("-device", "virtserialport,chardev=channel,name=org.snapstart.channel.0"),
)


def private(share: str) -> tuple[str, ...]:
    return (
        *("-name", "guest=snapstart/inst/s-1"),
        *("-M", "pc-i440fx-7.2,memory-backend=mem,dump-guest-core=off"),
        *("-accel", "tcg,thread=multi"),
        "-object",
        f"memory-backend-file,id=mem,size=512M,mem-path=/proc/self/fd/12,share={share}",
        *("-chardev", "socket,id=qmp,fd=10,server=on,wait=off"),
        *("-mon", "chardev=qmp,mode=control"),
        *("-chardev", "socket,id=channel,fd=11,server=on,wait=off"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        "-no-reboot",
    )


def test_a_template_boots_with_these_words() -> None:
    logged = "ringbuf,id=console,size=65536,logfile=/proc/self/fd/16,logappend=on"
    assert boot_argv(SHAPE, TCG, NAME, "console=ttyS0 quiet") == (
        *private("on"),
        *(logged if word.startswith("ringbuf,") else word for word in DEVICES),
        *("-kernel", "/proc/self/fd/14", "-initrd", "/proc/self/fd/15"),
        *("-append", "console=ttyS0 quiet"),
        *("-global", "migration.store-global-state=off"),
    )


def test_a_fork_starts_with_these_words() -> None:
    assert fork_argv(SHAPE, TCG, NAME) == (*private("off"), *DEVICES, "-incoming", "defer")


@pytest.mark.parametrize("accelerator", [TCG, KVM], ids=lambda one: one.name)
def test_a_template_and_its_forks_have_the_same_devices(accelerator: Accelerator) -> None:
    """All but where the host keeps the console, which no guest can see."""
    devices = device_argv(SHAPE, accelerator)
    for argv in (boot_argv(SHAPE, accelerator, NAME, ""), fork_argv(SHAPE, accelerator, NAME)):
        start = argv.index("-cpu")
        seen = [word.partition(",logfile=")[0] for word in argv[start : start + len(devices)]]
        assert tuple(seen) == devices


def test_the_device_part_names_no_path_no_descriptor_no_machine() -> None:
    text = " ".join(device_argv(SHAPE, TCG))
    assert not [word for word in ("/", "fd=", "s-1", "snapstart/") if word in text]


def test_a_machine_has_no_network_device() -> None:
    for argv in (boot_argv(SHAPE, KVM, NAME, ""), fork_argv(SHAPE, KVM, NAME)):
        assert not qemu_argv.has_network_device(argv)


@pytest.mark.parametrize(
    "words",
    [
        ("-nic", "user"),
        ("-net", "nic"),
        ("-netdev", "user,id=n"),
        ("-device", "virtio-net-pci"),
        ("-device", "e1000,netdev=n"),
    ],
    ids=" ".join,
)
def test_a_network_device_is_seen_whatever_option_makes_it(words: tuple[str, ...]) -> None:
    assert qemu_argv.has_network_device((*boot_argv(SHAPE, TCG, NAME, ""), *words))


def test_a_machine_with_qemus_defaults_has_a_network_device() -> None:
    argv = [word for word in boot_argv(SHAPE, TCG, NAME, "") if word != "-nodefaults"]
    assert qemu_argv.has_network_device(argv)


@pytest.mark.parametrize("accelerator", [TCG, KVM], ids=lambda one: one.name)
def test_the_bare_benchmark_measures_the_same_guest(accelerator: Accelerator) -> None:
    """What the guest can see is equal, whatever the sockets are called."""
    ours = fork_argv(SHAPE, accelerator, NAME)
    bare = bare_fork.machine_argv("qemu", accelerator.name, 512, qemu_argv.MEMORY_FD, False)
    assert guest_visible(bare) == guest_visible(ours)


def guest_visible(argv: object) -> list[tuple[str, ...]]:
    """The options a guest notices, each with its value, in order of name then appearance."""
    wanted = {"-M", "-cpu", "-m", "-smp", "-device", "-serial", "-vga", "-object", "-accel"}
    words = list(argv)  # type: ignore[call-overload]
    pairs = [(word, words[at + 1]) for at, word in enumerate(words) if word in wanted]
    flags = [(word,) for word in words if word in ("-nodefaults", "-no-user-config", "-no-reboot")]
    return sorted(pairs, key=lambda pair: pair[0]) + sorted(flags)


@pytest.mark.parametrize(
    ("argument", "vm_id"),
    [
        ("guest=snapstart/inst/s-1", "s-1"),
        ("snapstart/inst/s-1", "s-1"),
        ("guest=snapstart/other/s-1", None),
        ("guest=snapstart/inst/", None),
        ("guest=snapstart/inst", None),
        ("guest=snapstart/inst/..", None),
        ("guest=snapstart/inst/.", None),
        ("guest=snapstart/inst/a/b", None),
        ("guest=snapstart/inst/a b", None),
        ("guest=snapstart/inst/s-1,process=x", None),
        ("guest=my-desktop", None),
        ("", None),
    ],
)
def test_only_markers_of_this_installation_name_a_machine(argument: str, vm_id: str | None) -> None:
    assert qemu_argv.parse_marker(argument, "inst") == vm_id


def test_a_marker_is_parsed_back() -> None:
    assert qemu_argv.parse_marker(qemu_argv.marker("inst", "t-0a1b"), "inst") == "t-0a1b"


def test_the_script_of_a_fork_is_three_commands() -> None:
    commands = [json.loads(line) for line in qemu_argv.fork_qmp_script().splitlines()]
    assert [command["execute"] for command in commands] == [
        "qmp_capabilities",
        "migrate-set-capabilities",
        "migrate-incoming",
    ]
    assert commands[2]["arguments"] == {"uri": "fd:13"}
