"""How a machine is described, and what a clone's description has for itself."""

from __future__ import annotations

from typing import Any

import pytest

from agentd.errors import ErrorCode, PermanentError
from agentd.units import MIB
from agentd.vmm.cloud_hypervisor_config import (
    NO_CONSOLE,
    Clone,
    boot_config,
    clone_config,
    command_line,
    console_socket,
    device_argv,
)
from agentd.vmm.qemu_argv import parse_marker
from agentd.wire.manifest import Machine

SHAPE = Machine(memory_mib=256, vcpus=2)
CLONE = Clone(NO_CONSOLE)


def saved(**members: Any) -> dict[str, Any]:
    """As v53 writes it for a machine of ours."""
    config = boot_config(SHAPE, "console=ttyS0", is_shared=False)
    config["vsock"] = {"id": "_vsock0", "pci_segment": 0, **config["vsock"]}
    return {**config, "watchdog": False, "platform": None, "unheard_of": {"x": 1}, **members}


def paths(value: Any) -> list[str]:
    """Everything in a configuration that looks like a path."""
    if isinstance(value, dict):
        return [path for one in value.values() for path in paths(one)]
    if isinstance(value, list):
        return [path for one in value for path in paths(one)]
    return [value] if isinstance(value, str) and value.startswith("/") else []


def test_the_first_word_of_the_command_line_names_the_machine() -> None:
    words = command_line("inst", "s-1")
    assert parse_marker(words[0], "inst") == "s-1"
    assert parse_marker(words[0], "another") is None
    assert words[1:3] == ("--api-socket", "fd=10")


def test_a_machine_that_boots_has_what_was_asked_for() -> None:
    config = boot_config(SHAPE, "quiet", is_shared=True)
    assert config["cpus"] == {"boot_vcpus": 2, "max_vcpus": 2, "nested": False}
    assert config["memory"]["zones"] == [{"id": "ram", "size": 256 * MIB, "shared": True}]
    assert config["payload"]["cmdline"] == "quiet"
    assert "net" not in config
    assert "disks" not in config


def test_every_path_is_the_processs_own_or_a_device() -> None:
    for config in (saved(), clone_config(saved(), Clone(console_socket(), "/proc/self/fd/12"))):
        found = paths(config)
        assert found
        assert all(path.startswith(("/proc/self/fd/", "/dev/urandom")) for path in found)


def test_what_shapes_the_guest_differs_with_the_shape_alone() -> None:
    assert device_argv(SHAPE) == device_argv(Machine(256, 2))
    others = [Machine(256, 1), Machine(512, 2)]
    assert len({device_argv(shape) for shape in [SHAPE, *others]}) == 3
    assert not [word for word in device_argv(SHAPE) if "/proc" in word]


# -- clones ---------------------------------------------------------------------------------------


def test_a_clone_keeps_what_is_not_its_own_and_what_is_not_known() -> None:
    before = saved()
    config = clone_config(before, CLONE)
    for section in ("cpus", "rng", "watchdog", "platform", "unheard_of"):
        assert config[section] == before[section]
    assert before == saved(), "what was saved is another clone's too"


def test_a_mapped_clones_memory_is_a_private_mapping_of_the_templates() -> None:
    config = clone_config(saved(), Clone(NO_CONSOLE, "/proc/self/fd/12"))
    (zone,) = config["memory"]["zones"]
    assert zone == {
        "id": "ram",
        "size": 256 * MIB,
        "shared": False,
        "file": "/proc/self/fd/12",
    }
    assert config["memory"]["thp"] is False


def test_another_clones_memory_is_its_own_whatever_the_templates_was() -> None:
    zones = [{"id": "ram", "size": 256 * MIB, "shared": True, "file": "/somewhere"}]
    config = clone_config(saved(memory={"size": 0, "shared": True, "zones": zones}), CLONE)
    assert config["memory"]["zones"] == [{"id": "ram", "size": 256 * MIB, "shared": False}]
    assert config["memory"]["shared"] is False


def test_a_page_server_fills_memory_that_is_shared() -> None:
    config = clone_config(saved(), Clone(NO_CONSOLE, is_shared=True))
    assert config["memory"]["zones"][0]["shared"] is True


def test_a_clone_has_nothing_to_boot_from() -> None:
    """A snapshot without any kernel is refused; its initramfs is opened by every restore."""
    payload = clone_config(saved(), CLONE)["payload"]
    assert payload["kernel"].startswith("/proc/self/fd/20/")
    assert "initramfs" not in payload
    assert payload["cmdline"] == "console=ttyS0"


def test_a_clone_has_a_channel_and_a_console_of_its_own() -> None:
    config = clone_config(saved(vsock={"cid": 7, "socket": "/of/the/source"}), CLONE)
    assert config["vsock"] == {"cid": 7, "socket": "/proc/self/fd/20/channel.sock"}
    assert config["serial"] == {"mode": "Null"}
    assert clone_config(saved(), Clone(console_socket()))["serial"]["mode"] == "Socket"


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"mode": "Off", "iobase": 233}, {"mode": "Off", "iobase": 233}),
        ({"mode": "File", "file": "/log", "id": "c"}, {"mode": "Null", "id": "c"}),
        ({"mode": "Tty"}, {"mode": "Null"}),
    ],
)
def test_other_consoles_stay_devices_that_say_nothing(
    section: dict[str, Any], expected: dict[str, Any]
) -> None:
    config = clone_config(saved(console=section, debug_console=section), CLONE)
    assert config["console"] == config["debug_console"] == expected


def test_interfaces_and_disks_are_replaced_by_id() -> None:
    before = saved(
        net=[{"id": "n0", "tap": "tap0", "mac": "52:54:00:00:00:01"}, {"id": "n1", "tap": "tap1"}],
        disks=[{"id": "d0", "path": "/images/source", "readonly": True}],
    )
    wish = Clone(NO_CONSOLE, taps={"n0": "tap7", "n1": "tap8"}, disks={"d0": "/images/copy"})
    config = clone_config(before, wish)
    assert [net["tap"] for net in config["net"]] == ["tap7", "tap8"]
    assert config["net"][0]["mac"] == "52:54:00:00:00:01"
    assert config["disks"] == [{"id": "d0", "path": "/images/copy", "readonly": True}]


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"net": [{"id": "n0", "tap": "tap0"}]}, "no interface for its network device 'n0'"),
        ({"disks": [{"id": "d0", "path": "/x"}]}, "no file for its disk 'd0'"),
        ({"disks": [{"path": "/x"}]}, "no file for its disk None"),
        ({"fs": [{"tag": "home"}]}, "it has fs"),
        ({"devices": [{"path": "/sys/x"}], "tpm": {"socket": "/x"}}, "it has devices, tpm"),
    ],
)
def test_a_machine_with_what_only_one_can_have_is_not_cloned(
    members: dict[str, Any], words: str
) -> None:
    """Two clones would take each other's interface, or write to one disk."""
    with pytest.raises(PermanentError, match=words) as caught:
        clone_config(saved(**members), CLONE)
    assert caught.value.code is ErrorCode.TEMPLATE_INCOMPATIBLE
    assert caught.value.hint


@pytest.mark.parametrize("member", ["fds", "vhost_user"])
def test_an_interface_that_is_not_one_of_the_hosts_is_refused(member: str) -> None:
    net = {"id": "n0", "tap": None, member: [5]}
    with pytest.raises(PermanentError):
        clone_config(saved(net=[net]), Clone(NO_CONSOLE, taps={"n0": "tap0"}))
