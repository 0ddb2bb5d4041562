"""What people type at snapctl, on real machines."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.errors import ErrorCode
from agentd.image import Image
from bench.demo import IMAGES
from bench.node import Node
from tests.integration.node.conftest import TEMPLATE
from tests.integration.node.survey import settle

pytestmark = [pytest.mark.vm, pytest.mark.timeout(400)]

PROGRAMS = Path(sys.executable).parent

Run = Callable[..., subprocess.CompletedProcess[str]]


def snapctl_at(socket: Path) -> Run:
    """Runs snapctl as a shell would."""

    def run(*args: str, status: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
        argv = [str(PROGRAMS / "snapctl"), *args]
        environ = {"SNAPSTART_SOCKET": str(socket), "SNAPSTART_CACHE_DIR": str(IMAGES)}
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, timeout=200, check=False,
            env={**os.environ, **environ},
        )  # fmt: skip
        assert done.returncode == status, (argv, done.stdout, done.stderr)
        return done

    return run


@pytest.fixture
def snapctl(node: Node) -> Iterator[Run]:
    before = settle(node)
    yield snapctl_at(node.socket)
    assert settle(node) == before


@pytest.fixture
def session(snapctl: Run) -> Iterator[str]:
    session_id = snapctl("session", "create", TEMPLATE).stdout.strip()
    yield session_id
    snapctl("session", "rm", session_id)


def document(done: subprocess.CompletedProcess[str]) -> Any:
    """All of stdout is one JSON document."""
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_images_are_built_once_and_listed(snapctl: Run, guest_image: Image) -> None:
    assert snapctl("image", "build").stdout == f"{guest_image.directory}\n"
    assert document(snapctl("image", "build", "--json"))["directory"] == str(guest_image.directory)
    assert guest_image.key[:12] in snapctl("image", "list").stdout
    listed = document(snapctl("image", "list", "--json"))["images"]
    assert str(guest_image.directory) in [one["directory"] for one in listed]


def test_a_template_is_made_shown_and_removed(snapctl: Run, guest_image: Image) -> None:
    image = str(guest_image.directory)
    made = document(snapctl("template", "create", "second", "--image", image, "--json"))
    assert (made["name"], made["state"]) == ("second", "ready")
    assert set(made["stages_ms"]) >= {"boot", "warm", "checkpoint", "seal"}
    names = [one["name"] for one in document(snapctl("template", "list", "--json"))["templates"]]
    assert set(names) >= {TEMPLATE, "second"}
    taken = snapctl(
        "template", "create", "second", "--image", image, status=ErrorCode.TEMPLATE_EXISTS.exit_code
    )
    assert taken.stderr.startswith("error: ")
    assert "hint: " in taken.stderr
    assert snapctl("template", "rm", "second").stdout == "removed second\n"
    unknown = ErrorCode.TEMPLATE_NOT_FOUND.exit_code
    gone = snapctl("template", "show", "second", "--json", status=unknown)
    assert document(gone)["error"]["code"] == "template_not_found"


def test_templates_are_listed_shown_and_verified(snapctl: Run) -> None:
    assert re.search(rf"^{TEMPLATE} +ready", snapctl("template", "list").stdout, re.M)
    shown = snapctl("template", "show", TEMPLATE).stdout
    assert re.search(r"^memory +512 MiB$", shown, re.M)
    assert "fail" not in snapctl("template", "verify", TEMPLATE).stdout
    checks = document(snapctl("template", "verify", TEMPLATE, "--json"))["checks"]
    assert {"files are as sealed", "machine id differs", "numpy differs", "workspace is empty"} <= {
        one["name"] for one in checks
    }
    assert all(one["is_ok"] for one in checks)


def test_code_runs_in_a_session(snapctl: Run, session: str) -> None:
    done = snapctl("session", "exec", session, "print('out'); x = 1; x + 1")
    assert (done.stdout, done.stderr) == ("out\n2\n", "")
    assert document(snapctl("session", "exec", session, "x", "--json"))["text"] == "1"
    assert snapctl("session", "exec", session, "-", stdin="x + 2").stdout == "3\n"
    failed = snapctl("session", "exec", session, "1 / 0", status=1)
    assert "ZeroDivisionError" in failed.stderr
    snapctl("session", "exec", session, "import sys; sys.exit(7)", status=7)
    late = ErrorCode.EXECUTION_TIMEOUT.exit_code
    snapctl("session", "exec", session, "--timeout", "0.5", "while True: pass", status=late)
    ids = [one["id"] for one in document(snapctl("session", "list", "--json"))["sessions"]]
    assert session in ids


def test_files_are_copied_in_listed_and_copied_out(
    snapctl: Run, session: str, tmp_path: Path
) -> None:
    source, target = tmp_path / "in.bin", tmp_path / "out.bin"
    source.write_bytes(os.urandom(300_000))
    snapctl("session", "cp", str(source), f"{session}:d/in.bin")
    snapctl("session", "cp", f"{session}:d/in.bin", str(target))
    assert target.read_bytes() == source.read_bytes()
    assert re.search(r" directory +/workspace/d$", snapctl("session", "ls", session).stdout, re.M)
    (listed,) = document(snapctl("session", "ls", session, "d", "--json"))["entries"]
    assert (listed["path"], listed["size"]) == ("/workspace/d/in.bin", 300_000)
    missing = ErrorCode.FILE_NOT_FOUND.exit_code
    snapctl("session", "cp", f"{session}:none", str(target), status=missing)
    assert target.read_bytes() == source.read_bytes()


def test_forks_run_at_once_and_are_gone_afterwards(snapctl: Run) -> None:
    code = "import os; os.urandom(8).hex()"
    found = document(snapctl("fork", TEMPLATE, "--count", "4", "--exec", code, "--json"))
    assert len({one["output"] for one in found["forks"]}) == 4
    assert all(one["stages_ms"]["total"] > 0 for one in found["forks"])
    assert "2 in " in snapctl("fork", TEMPLATE, "--count", "2").stdout


def test_every_part_of_a_start_is_traced(snapctl: Run, session: str) -> None:
    found = document(snapctl("trace", session, "--json"))
    told = [one["stage"] for one in found["stages"]]
    before, monitor = ["template", "slot", "prepared"], ["spawn", "load", "resume"]
    assert told == [*before, *monitor, "inject", "guest_ready", "handover"]
    ends = [one["end_ms"] for one in found["stages"]]
    assert ends == sorted(ends)
    assert ends[-1] == found["total_ms"] > 0
    assert "guest_ready" in snapctl("trace", session).stdout


def test_the_node_is_watched_and_checked(snapctl: Run, session: str, node: Node) -> None:
    assert re.search(rf"^{session} +{TEMPLATE} +fork", snapctl("top", "--once").stdout, re.M)
    (used,) = document(snapctl("top", "--once", "--json"))["usage"]
    assert used["private_bytes"] > 0
    state = ("--state-dir", str(node.root / "data"))
    assert re.search(r"^daemon +ok", snapctl("doctor", *state).stdout, re.M)
    checks = {one["name"]: one for one in document(snapctl("doctor", *state, "--json"))["checks"]}
    assert checks["daemon"]["level"] == "ok"
    assert [name for name, one in checks.items() if one["level"] == "fail"] == []


def test_a_daemon_that_is_not_there_is_said_to_be(tmp_path: Path) -> None:
    away = snapctl_at(tmp_path / "none.sock")
    unreachable = ErrorCode.AGENT_UNREACHABLE.exit_code
    done = away("session", "list", status=unreachable)
    assert textwrap.shorten(done.stderr, 60).startswith("error: list sessions: cannot reach")
    assert "agentd serve" in done.stderr


def test_the_demo_shows_a_comparison(tmp_path: Path) -> None:
    page = tmp_path / "demo.html"
    run = snapctl_at(tmp_path / "none.sock")
    result = document(run("demo", "--forks", "2", "--html", str(page), "--json"))
    counts = {name: len(result[name]) for name in ("cold_ms", "fork_ms", "concurrent_ms")}
    assert counts == {"cold_ms": 1, "fork_ms": 2, "concurrent_ms": 2}
    assert result["bare_fork_ms"] == []
    assert len({one["machine_id"] for one in result["identity"]}) == 2
    assert "<!doctype html>" in page.read_text()
