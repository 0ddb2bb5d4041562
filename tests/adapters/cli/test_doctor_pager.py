"""The doctor about a page server: on machines made of files, and on this one."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentd.cli import doctor_pager
from agentd.cli.doctor_checks import Check, Host, Level
from agentd.cli.doctor_pager import PagerNode, Probes, Running, run_pager_checks
from agentd.cli.doctor_pager_probes import in_child, try_minor_faults, try_take_over
from agentd.cli.snapctl import snapctl
from agentd.pager.places import PagerPlace
from agentd.wire.pager import About

NOBODY = 65534
PTRACE, IPC_LOCK = 1 << 19, 1 << 14
TMPFS = "27 22 0:24 / /run rw - tmpfs tmpfs rw\n"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def answering(said: str) -> Probes:
    return Probes(lambda _uid: said, lambda: said, lambda _uid: said)


def no_systemctl(_words: Sequence[str]) -> str:
    return ""


def node(root: Path, *, is_off: bool = False, probes: Probes | None = None) -> PagerNode:
    return PagerNode(
        Host(root, "", root, {}),
        PagerPlace(Path("/b"), root / "pager.sock", Path("/run/snapstart/pager"), 10.0, 4),
        is_off,
        NOBODY,
        512,
        probes or answering(""),
        no_systemctl,
    )


def running(
    *,
    caps: int = PTRACE | IPC_LOCK,
    seccomp: str = "0",
    memlock_bytes: int | None = None,
    environ: frozenset[str] = frozenset(),
    supervisor: int = 0,
    unit: str = "",
) -> Running:
    status = {"CapEff": f"{caps:016x}", "Seccomp": seccomp, "Seccomp_filters": "2"}
    return Running(About("1", 7, 0), status, memlock_bytes, environ, supervisor, unit)


def told(check: Check) -> Level:
    """Its level; whatever is not fine says what to do."""
    assert check.hint or check.level is Level.OK
    return check.level


@contextmanager
def one_answer(path: Path, line: bytes) -> Iterator[None]:
    """A page server that gives each caller the same line, from a thread."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(4)

    def serve() -> None:
        while True:
            link, _ = listener.accept()
            with link:
                if not link.recv(4096):
                    return
                link.sendall(line)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(str(path))
        thread.join()
        listener.close()


def put(root: Path, path: str, content: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(content)


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


# -- the page server ----------------------------------------------------------------------------


def test_a_page_server_that_is_off_needs_nothing(tmp_path: Path) -> None:
    (check,) = run_pager_checks(node(tmp_path, is_off=True))
    assert told(check) is Level.OK
    assert "map files" in check.detail


def test_without_one_the_kernel_is_looked_at_all_the_same(tmp_path: Path) -> None:
    put(tmp_path, "proc/self/mountinfo", TMPFS)
    found = by_name(run_pager_checks(node(tmp_path)))
    assert {name for name, one in found.items() if told(one) is Level.OK} == {
        "userfaultfd", "minor faults", "take-over", "journal",
    }  # fmt: skip
    assert found["page server"].level is Level.WARN
    assert all("not seen" in found[name].detail for name in ("rights", "filters", "keeper"))


def test_one_that_runs_is_looked_at_through_the_kernel(tmp_path: Path) -> None:
    put(tmp_path, "proc/self/mountinfo", TMPFS)
    caps = f"{PTRACE:016x}"
    put(tmp_path, "proc/7/status", f"Name:\tsnap-pager\nPPid:\t6\nCapEff:\t{caps}\nSeccomp:\t0\n")
    limits = "Max locked memory         8388608              8388608              bytes     \n"
    put(tmp_path, "proc/7/limits", limits)
    argv = ["/b/snap-pager", "supervise", "--control", str(tmp_path / "pager.sock"), ""]
    put(tmp_path, "proc/6/cmdline", "\0".join(argv))
    answer = b'{"ok":true,"version":"1","pid":7,"machines":3}\n'
    with one_answer(tmp_path / "pager.sock", answer):
        found = by_name(run_pager_checks(node(tmp_path)))
    assert found["page server"].detail == "snap-pager 1, pid 7, serves 3 machines"
    assert found["keeper"].detail == "snap-pager supervise, pid 6"
    assert found["rights"].level is found["filters"].level is Level.OK
    assert "8 MiB: journals of 102 machines" in found["memlock"].detail


def test_one_whose_process_is_hidden_is_not_called_fine(tmp_path: Path) -> None:
    with one_answer(tmp_path / "pager.sock", b'{"ok":true,"version":"1","pid":7,"machines":0}\n'):
        found = by_name(run_pager_checks(node(tmp_path)))
    for name in ("rights", "filters", "keeper"):
        assert told(found[name]) is Level.WARN, name


def test_one_that_talks_nonsense_is_a_failure(tmp_path: Path) -> None:
    with one_answer(tmp_path / "pager.sock", b"hello\n"):
        found = by_name(run_pager_checks(node(tmp_path)))
    assert told(found["page server"]) is Level.FAIL


# -- decisions ----------------------------------------------------------------------------------


def test_what_the_kernel_refuses_is_told_with_what_follows(tmp_path: Path) -> None:
    found = by_name(run_pager_checks(node(tmp_path, probes=answering("Operation not permitted"))))
    assert told(found["userfaultfd"]) is Level.WARN
    assert f"uid {NOBODY}: Operation not permitted" in found["userfaultfd"].detail
    assert told(found["minor faults"]) is Level.WARN
    assert told(found["take-over"]) is Level.FAIL
    assert "no machine outlives" in found["take-over"].detail


def test_a_kernel_that_lets_nobody_trace_is_named(tmp_path: Path) -> None:
    put(tmp_path, "proc/sys/kernel/yama/ptrace_scope", "3\n")
    found = by_name(run_pager_checks(node(tmp_path, probes=answering("no"))))
    assert "ptrace_scope" in found["take-over"].hint


def test_a_page_server_without_the_capability_fails() -> None:
    assert told(doctor_pager.check_rights(running(caps=IPC_LOCK))) is Level.FAIL
    assert told(doctor_pager.check_rights(running())) is Level.OK


def test_filters_are_stated_with_the_calls_they_must_allow() -> None:
    check = doctor_pager.check_filters(running(seccomp="2"))
    assert told(check) is Level.WARN
    assert "2 seccomp filters" in check.detail
    assert "pidfd_getfd" in check.hint
    assert told(doctor_pager.check_filters(running())) is Level.OK


@pytest.mark.parametrize(
    ("server", "most", "level", "said"),
    [
        (running(supervisor=6), "", Level.OK, "pid 6"),
        (running(), "", Level.WARN, "none"),
        (running(unit="snap-pager.service"), "512", Level.WARN, "none"),
        (
            running(environ=frozenset({"NOTIFY_SOCKET"}), unit="snap-pager.service"),
            "512\n",
            Level.OK,
            "512 descriptors",
        ),
        (
            running(environ=frozenset({"NOTIFY_SOCKET"}), unit="snap-pager.service"),
            "0\n",
            Level.WARN,
            "keeps no descriptors",
        ),
    ],
    ids=["supervised", "alone", "not told", "systemd", "systemd without a store"],
)
def test_a_keeper_is_the_supervisor_or_systemd(
    server: Running, most: str, level: Level, said: str
) -> None:
    asked: list[Sequence[str]] = []

    def systemctl(words: Sequence[str]) -> str:
        asked.append(words)
        return most

    check = doctor_pager.check_keeper(server, systemctl)
    assert told(check) is level
    assert said in check.detail
    assert all(words[-1] == "snap-pager.service" for words in asked)


@pytest.mark.parametrize(
    ("server", "level"),
    [
        (running(memlock_bytes=8 << 20, caps=PTRACE), Level.WARN),
        (running(memlock_bytes=64 << 20, caps=PTRACE), Level.OK),
        (running(memlock_bytes=None, caps=PTRACE), Level.OK),
        (running(memlock_bytes=65536), Level.OK),
    ],
    ids=["few", "many", "no limit", "may exceed it"],
)
def test_locked_memory_is_told_in_machines(server: Running, level: Level) -> None:
    assert told(doctor_pager.check_memlock(server, 512)) is level


def test_a_journal_on_a_disk_fails(tmp_path: Path) -> None:
    mountinfo = "22 1 254:1 / / rw - ext4 /dev/vda1 rw\n"
    check = doctor_pager.check_journal(Path("/var/lib/x"), mountinfo)
    assert told(check) is Level.FAIL
    assert "ext4" in check.detail
    assert told(doctor_pager.check_journal(Path("/x"), "")) is Level.FAIL


def test_the_unit_is_read_from_the_control_group() -> None:
    assert doctor_pager._unit("0::/system.slice/snap-pager.service\n") == "snap-pager.service"
    assert doctor_pager._unit("0::/user.slice/user-0.slice/session-1.scope\n") == ""


# -- this machine -------------------------------------------------------------------------------


def test_a_descriptor_is_taken_out_of_a_process_of_ours() -> None:
    said = try_take_over(os.geteuid())
    assert said in ("", "Operation not permitted", "Function not implemented")


@needs_root
def test_root_takes_one_out_of_a_process_of_any_user() -> None:
    assert try_take_over(NOBODY) == ""


@needs_root
def test_whoever_may_not_trace_is_refused() -> None:
    """In a process without the capability, out of one that is nobody's child any more."""

    def work() -> None:
        said = try_take_over(NOBODY)
        raise OSError(0, said or "it was let through")

    assert in_child(NOBODY, work) == "Operation not permitted"


@needs_root
def test_what_a_user_may_is_tried_as_that_user() -> None:
    def work() -> None:
        raise OSError(0, f"{os.getuid()} {os.geteuid()} {os.getgid()} {os.getgroups()}")

    assert in_child(NOBODY, work) == f"{NOBODY} {NOBODY} {NOBODY} []"


def test_a_process_that_is_killed_while_it_tries_is_no_success() -> None:
    assert "killed" in in_child(os.geteuid(), lambda: os.kill(os.getpid(), 9))


def test_a_mistake_in_a_trial_is_no_success() -> None:
    def work() -> None:
        raise ValueError

    assert "killed" in in_child(os.geteuid(), work)


@needs_root
def test_minor_faults_are_tried_for_real() -> None:
    assert try_minor_faults() in ("", "Invalid argument", "Function not implemented")


def test_the_command_adds_the_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNAPSTART_PATHS__RUN_DIR", str(tmp_path))
    args = ["doctor", "--json", "--socket", str(tmp_path / "none"), "--state-dir", str(tmp_path)]
    plain = json.loads(CliRunner().invoke(snapctl, args).stdout)["checks"]
    both = json.loads(CliRunner().invoke(snapctl, [*args, "--pager"]).stdout)["checks"]
    added = [one["name"] for one in both[len(plain) :]]
    assert added == [
        "page server", "userfaultfd", "minor faults", "take-over", "rights", "filters", "keeper",
        "journal", "memlock",
    ]  # fmt: skip
