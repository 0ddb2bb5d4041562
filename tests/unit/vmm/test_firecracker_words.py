"""What Firecracker is told, what is made of its answers, of its end."""

from __future__ import annotations

import pytest

from agentd.errors import ErrorCode, PeerError, PermanentError, SnapStartError, TransientError
from agentd.vmm import firecracker_config as configs
from agentd.vmm.firecracker_api import parse_fault, refusal
from agentd.vmm.firecracker_exit import explain_exit
from agentd.vmm.qemu_argv import parse_marker
from agentd.wire.manifest import Machine


def test_a_successor_reads_the_machine_s_name_in_the_program_s_place() -> None:
    argv = configs.command_line("inst", "s-0123456789abcdef")
    assert parse_marker(argv[0], "inst") == "s-0123456789abcdef"
    assert argv[argv.index("--id") + 1] == "s-0123456789abcdef"


def test_the_id_has_only_what_firecracker_takes() -> None:
    assert configs.command_line("inst", "a_b")[2] == "a-b"


def test_all_machines_of_a_shape_are_described_alike() -> None:
    """Else a snapshot would name what is another machine's."""
    machine = Machine(memory_mib=256, vcpus=2)
    assert configs.machine_config(machine) == {
        "vcpu_count": 2, "mem_size_mib": 256, "smt": False,
    }  # fmt: skip
    assert configs.vsock() == {"guest_cid": 3, "uds_path": "/proc/self/fd/3/channel"}
    assert configs.boot_source("console=ttyS0 quiet") == {
        "kernel_image_path": "/proc/self/fd/5",
        "initrd_path": "/proc/self/fd/6",
        "boot_args": "console=ttyS0 quiet reboot=k",
    }


def test_what_the_guest_sees_is_in_the_facts() -> None:
    small, large = (configs.device_argv(Machine(memory_mib=256, vcpus=count)) for count in (1, 2))
    assert small != large
    assert "mem_size_mib=256" in small
    assert "guest_cid=3" in small


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b'{"fault_message":"no"}', "no"),
        (b'{"fault_message":"no","later":1}', "no"),
        (b'{"other":1}', '{"other":1}'),
        (b"not json", "not json"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"[" * 100_000, "[" * 2000),
        (b"", ""),
    ],
    ids=["fault", "more", "other", "text", "bytes", "deep", "nothing"],
)
def test_a_fault_is_what_the_answer_says_or_the_answer(body: bytes, fault: str) -> None:
    assert parse_fault(body) == fault


_RESTORE = "Load snapshot error: Failed to restore from snapshot: "


@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        (f"{_RESTORE}CRC64 validation failed", PermanentError, ErrorCode.TEMPLATE_CORRUPT),
        (f"{_RESTORE}Invalid data version: 9.0.0", PermanentError,
         ErrorCode.TEMPLATE_INCOMPATIBLE),
        (f"{_RESTORE}An error occurred during bitcode serialization: bitcode error",
         PermanentError, ErrorCode.TEMPLATE_CORRUPT),
        ("Cannot write memory file: No space left on device (os error 28)", TransientError,
         ErrorCode.DISK_FULL),
        ("mmap: Cannot allocate memory (os error 12)", TransientError, ErrorCode.NO_MEMORY),
        ("Too many open files (os error 24)", TransientError, ErrorCode.NODE_FULL),
        ("File exists (os error 17)", PeerError, ErrorCode.VMM_FAILED),
        ("anything", PeerError, ErrorCode.VMM_FAILED),
    ],
)  # fmt: skip
def test_a_refusal_is_the_error_of_whose_move_it_is(
    fault: str, kind: type[SnapStartError], code: ErrorCode
) -> None:
    error = refusal("PUT /snapshot/load", 400, fault)
    assert type(error) is kind
    assert error.code is code
    assert str(error).startswith(f"the monitor refused PUT /snapshot/load (400): {fault}")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("exited with status 148",
         "exited with status 148 (it made a system call that its filter does not allow)"),
        ("exited with status 0", "exited with status 0 (its guest ended)"),
        ("exited with status 77", "exited with status 77"),
        ("was killed by SIGKILL", "was killed by SIGKILL"),
        ("ended", "ended"),
    ],
)  # fmt: skip
def test_an_exit_status_is_explained_where_it_has_a_meaning(how: str, words: str) -> None:
    assert explain_exit(how) == words
