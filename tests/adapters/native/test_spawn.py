"""What a spawned program inherits, and what a failure is called."""

from __future__ import annotations

import asyncio
import os
import resource
import select
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from agentd import native
from agentd.errors import ConfigError, ErrorCode, PeerError

NOBODY = (65534, 65534)


def request(script: str, output_fd: int, **more: object) -> native.SpawnRequest:
    """Run a shell script with its output in a file."""
    fields: dict[str, object] = {"env": {"WHO": "me"}, "fds": {}, **more}
    return native.SpawnRequest(
        executable="/bin/sh",
        argv=["sh", "-c", script],
        output_fd=output_fd,
        **fields,  # type: ignore[arg-type]
    )


def run(script: str, directory: Path, **more: object) -> tuple[int, str]:
    """Run a script to its end; returns its wait status with its output."""
    path = directory / "output"
    with path.open("wb") as output:
        process = native.spawn(request(script, output.fileno(), **more))
        try:
            assert select.select([process.pidfd], [], [], 20.0)[0], "the script does not end"
            status = native.kill(process)  # a zombie cannot be killed, only reaped
        finally:
            os.close(process.pidfd)
    return status, path.read_text()


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A new cgroup v2, removed again."""
    mounts: Mapping[str, str] = {
        fields[2]: fields[1]
        for fields in (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    }
    if "cgroup2" not in mounts:
        pytest.skip("there is no cgroup v2 hierarchy")
    path = Path(mounts["cgroup2"]) / f"snapstart-test-{os.getpid()}"
    try:
        path.mkdir()
    except OSError as exc:
        pytest.skip(f"cannot make a cgroup: {exc}")
    yield path
    path.rmdir()


def test_environment_is_exactly_what_was_given(tmp_path: Path) -> None:
    status, output = run("exec /usr/bin/env", tmp_path)
    assert status == 0
    assert set(output.split()) - {"PWD=/"} == {"WHO=me"}


def test_exit_status_is_reported(tmp_path: Path) -> None:
    assert run("exit 7", tmp_path)[0] == 7 << 8


def test_file_beyond_the_limit_is_an_error_not_a_signal(tmp_path: Path) -> None:
    path = tmp_path / "big"
    script = f"dd if=/dev/zero of={path} bs=4096 count=2"
    status, output = run(script, tmp_path, max_file_bytes=4096)
    assert os.WIFEXITED(status)
    assert "File too large" in output
    assert path.stat().st_size == 4096


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_identity_is_dropped_with_all_groups(tmp_path: Path) -> None:
    script = "grep -E '^(Uid|Gid|Groups)' /proc/self/status"
    _, output = run(script, tmp_path, user=NOBODY, env={"PATH": "/usr/bin:/bin"})
    lines = {line.split(":")[0]: line.split(":")[1].split() for line in output.splitlines()}
    assert lines == {"Uid": ["65534"] * 4, "Gid": ["65534"] * 4, "Groups": []}
    assert os.geteuid() == 0


def test_no_core_is_dumped_not_even_to_a_handler(tmp_path: Path) -> None:
    """A limit of 1, not 0: the kernel heeds no other one when it pipes dumps to a program."""
    command = "grep 'core file' /proc/self/limits; kill -ABRT $$"
    status, output = run(command, tmp_path, env={"PATH": "/usr/bin:/bin"})
    assert output.split() == ["Max", "core", "file", "size", "1", "1", "bytes"]
    assert os.WIFSIGNALED(status)
    assert not os.WCOREDUMP(status)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_who_may_have_no_core_dump_at_all_starts_programs_all_the_same() -> None:
    """A limit that is 0 cannot be raised, not even to 1."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)
        assert status_as_nobody(Path(directory)) == 7


def status_as_nobody(directory: Path) -> int:
    """What a program ends with that somebody without a hard limit for core dumps starts."""
    pid = os.fork()
    if pid == 0:
        ended = 1
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.setresuid(NOBODY[0], NOBODY[0], NOBODY[0])
            status, _ = run("exit 7", directory)
            ended = os.waitstatus_to_exitcode(status)
        finally:
            os._exit(ended)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def test_child_is_born_in_its_cgroup(tmp_path: Path, cgroup: Path) -> None:
    cgroup_fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _, output = run("exec /bin/cat /proc/self/cgroup", tmp_path, cgroup_fd=cgroup_fd)
    finally:
        os.close(cgroup_fd)
    assert f"0::/{cgroup.name}\n" in output


def test_program_that_cannot_be_executed_is_the_operators_move(tmp_path: Path) -> None:
    with (tmp_path / "output").open("wb") as output:
        base = request("", output.fileno())
        absent = native.SpawnRequest("/no/qemu", base.argv, base.env, base.fds, base.output_fd)
        with pytest.raises(ConfigError, match="/no/qemu") as caught:
            native.spawn(absent)
    assert caught.value.code is ErrorCode.MONITOR_MISSING


def test_closed_descriptor_is_named_as_such(tmp_path: Path) -> None:
    with (
        (tmp_path / "output").open("wb") as output,
        pytest.raises(PeerError, match="file descriptors"),
    ):
        native.spawn(request("", output.fileno(), fds={3: 1_000_000}))


def test_too_many_descriptors_are_refused(tmp_path: Path) -> None:
    fds = dict.fromkeys(range(3, 100), 1)
    with (tmp_path / "output").open("wb") as output, pytest.raises(ValueError, match="at most"):
        native.spawn(request("", output.fileno(), fds=fds))


async def test_many_spawns_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(12)]
    for path in paths:
        path.mkdir()
    jobs = [native.run(lambda _, p=path: run(f"echo {p.name}", p)) for path in paths]  # type: ignore[misc]
    results = await asyncio.gather(*jobs)
    assert results == [(0, f"{path.name}\n") for path in paths]
