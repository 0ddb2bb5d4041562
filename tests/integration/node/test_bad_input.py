"""Bad input, on real machines: one clear error, nothing left behind, nobody else harmed.

what                            covered by
------------------------------  ------------------------------------------------------------------
unknown template or session     test_a_bad_request_is_refused; tests/adapters/test_daemon.py
bad name                        test_a_bad_name_is_refused; tests/unit/store/test_names.py
second template of a name       test_a_bad_request_is_refused
code in a dead session          test_a_dead_session_says_that_it_ended,
                                test_a_machine_killed_by_hand_ends_its_session
code that never ends            test_code_that_never_ends_is_stopped_by_its_time_out
result of 100 MB                test_a_result_of_100_mb_is_refused
template cut, flipped,          test_a_changed_template_is_refused;
replaced, of another QEMU       the file format: tests/adapters/store/test_damage.py
QEMU missing                    test_agentd_does_not_start_without_qemu
no memory: by the budget,       test_a_node_without_memory_refuses,
on the host,                    test_a_machine_beyond_the_hosts_memory_is_refused,
by QEMU's own failure           test_qemu_without_memory_fails_one_request
disk full                       test_a_full_disk_fails_the_build;
                                each write of a seal: tests/adapters/store/test_space.py
guest never ready, that speaks  test_a_rogue_guest_becomes_no_template;
garbage, that floods            forks of one: tests/integration/vmm/test_rogue_guests.py
guest that claims to be safe    tests/integration/node/test_contamination.py
unknown key in the settings     test_an_unknown_setting_is_named; tests/unit/settings
"""

from __future__ import annotations

import http.client
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import psutil
import pytest

from agentd.client import Sandbox
from agentd.errors import ErrorCode, SnapStartError
from agentd.image import Image
from agentd.store import files
from agentd.units import MIB
from agentd.wire import api, manifest
from bench.demo import IMAGES, MEMORY_MIB
from bench.node import Node
from tests.integration.node.conftest import TEMPLATE
from tests.integration.node.images import build_changed_image
from tests.integration.node.survey import SETTLE_S, settle

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

ROGUE_MAIN = '''
"""A runtime that breaks the protocol in the way that its amount of memory asks for."""

import os
import time

from agentd.guest import boot
from agentd.guest.port import open_port

MARKER = bytes.fromhex("f5534e4150f75354415254fb4d5831ff")


def write(port, data):
    while data:
        try:
            data = data[os.write(port, data) :]
        except BlockingIOError:
            time.sleep(0.001)


def read_epoch(port):
    """The host's mark, once its HELLO is here."""
    said = b""
    while len(said.rpartition(MARKER)[2]) < 28 or MARKER not in said:
        try:
            said += os.read(port, 65536)
        except BlockingIOError:
            time.sleep(0.01)
    return said.rpartition(MARKER)[2][12:28]


def main():
    boot.bring_up()
    port = open_port(30)
    mib = int(open("/proc/meminfo").read().split()[1]) >> 10
    if mib < 380:
        time.sleep(3600)
    if mib < 440:
        header = b"SF" + bytes([2, 0]) + (0).to_bytes(4, "big") + (16).to_bytes(4, "big")
        write(port, MARKER + header + read_epoch(port) + b"this is no frame, not at all")
        time.sleep(3600)
    while True:
        write(port, b"y" * 32768)
'''
# A build that ends while its guest warms says so; which of the two is the engine's choice.
ROGUE_CODES = (ErrorCode.GUEST_NOT_READY, ErrorCode.GUEST_PROTOCOL)


def refusal(call: Callable[[], object]) -> SnapStartError:
    """The error that a client gets, which says what and what to do."""
    with pytest.raises(SnapStartError) as caught:
        call()
    assert "Traceback" not in caught.value.message
    assert len(caught.value.message) > 10
    return caught.value


def raw_reply(node: Node, method: str, path: str, body: object) -> tuple[int, api.ErrorBody]:
    """HTTP status and error of a request that the client would not make."""
    raw = None if body is None else msgspec.json.encode(body)
    headers = {"Content-Type": "application/json"}
    connection = http.client.HTTPConnection("agentd")
    with closing(connection), socket.socket(socket.AF_UNIX) as connection.sock:
        connection.sock.connect(str(node.socket))
        connection.request(method, path, raw, headers)
        answer = connection.getresponse()
        return answer.status, msgspec.json.decode(answer.read(), type=api.ErrorReply).error


def daemon_fds(node: Node) -> int:
    return psutil.Process(node.pid).num_fds()


def closes_all_but(node: Node, fds: int) -> bool:
    """Whether no more stay open; it sees a little later than we that a connection is closed."""
    give_up = time.monotonic() + SETTLE_S
    while (open_now := daemon_fds(node)) > fds and time.monotonic() < give_up:
        time.sleep(0.1)
    return open_now <= fds


@contextmanager
def unharmed(node: Node) -> Iterator[Sandbox]:
    """A bystander, who still answers afterwards; nothing is left of what the block did."""
    with node.create(TEMPLATE) as bystander:
        bystander.run_code("x = 41")
        before, fds = settle(node), daemon_fds(node)
        yield bystander
        assert bystander.run_code("x + 1").text == "42"
        assert settle(node) == before
        # Connections that clients keep open come and go.
        assert closes_all_but(node, fds + 2)
    staging = node.root / "data" / "staging"
    assert not staging.exists() or list(staging.iterdir()) == []


# --- requests ------------------------------------------------------------------------------------


def template_wish(name: str) -> dict[str, str]:
    return {"name": name, "image": "no image"}


def assert_refused(node: Node, method: str, path: str, body: object, code: ErrorCode) -> None:
    """One clear error, and the session of somebody else does not notice."""
    with unharmed(node):
        status, error = raw_reply(node, method, path, body)
        assert (error.code, status) == (code, code.http_status), error
        assert 0 < len(error.message) < 500
        assert error.hint


TAKEN = template_wish(TEMPLATE)
UNKNOWN = {"template": "none"}


@pytest.mark.parametrize(
    ("method", "path", "body", "code"),
    [
        ("POST", "/v1/sessions", UNKNOWN, ErrorCode.TEMPLATE_NOT_FOUND),
        ("GET", "/v1/templates/..%2Fx", None, ErrorCode.NAME_INVALID),
        ("DELETE", "/v1/templates/..%2Fx", None, ErrorCode.NAME_INVALID),
        ("POST", "/v1/sessions/none/execute", {"code": "1"}, ErrorCode.SESSION_NOT_FOUND),
        ("POST", "/v1/templates", TAKEN, ErrorCode.TEMPLATE_EXISTS),
    ],
    ids=["fork of nothing", "look outside", "remove outside", "no session", "taken"],
)
def test_a_bad_request_is_refused(
    node: Node, method: str, path: str, body: object, code: ErrorCode
) -> None:
    assert_refused(node, method, path, body, code)


@pytest.mark.parametrize(
    "name",
    ["../x", "x" * 64, "x" * 100_000, "", "a\0b", "p\u00fcthon"],
    ids=["traversal", "too long", "far too long", "empty", "NUL", "not ASCII"],
)
def test_a_bad_name_is_refused(node: Node, name: str) -> None:
    assert_refused(node, "POST", "/v1/templates", template_wish(name), ErrorCode.NAME_INVALID)


def test_a_dead_session_says_that_it_ended(node: Node) -> None:
    with unharmed(node):
        dead = node.create(TEMPLATE)
        dead.kill()
        path = f"/v1/sessions/{dead.sandbox_id}/execute"
        status, error = raw_reply(node, "POST", path, {"code": "1"})
        assert (error.code, status) == ("session_ended", 410)
        assert "deleted" in error.message


def test_a_machine_killed_by_hand_ends_its_session(node: Node) -> None:
    with unharmed(node) as bystander:
        with Sandbox.create(TEMPLATE, socket=node.socket) as victim:
            assert victim.info.pid is not None
            os.kill(victim.info.pid, signal.SIGKILL)
            settle(node)
            error = refusal(lambda: victim.run_code("1"))
            assert error.code is ErrorCode.SESSION_ENDED
            assert "vm_died" in error.message
        assert bystander.run_code("x").text == "41"


def test_code_that_never_ends_is_stopped_by_its_time_out(node: Node) -> None:
    with unharmed(node), node.create(TEMPLATE) as busy:
        busy.run_code("kept = 1")
        assert busy.run_code("while True: pass", timeout=0.5).status == "timeout"
        assert busy.run_code("kept").text == "1"
        deaf = "import signal; signal.signal(2, signal.SIG_IGN)\nwhile True: pass"
        done = busy.run_code(deaf, timeout=0.5)
        assert (done.status, done.namespace_lost) == ("timeout", True)
        assert busy.run_code("1 + 1").text == "2"


def test_a_result_of_100_mb_is_refused(node: Node) -> None:
    with unharmed(node), node.create(TEMPLATE) as sandbox:
        done = sandbox.run_code("kept = 1; 'x' * 100_000_000", timeout=120)
        assert (done.status, done.results) == ("result_too_large", [])
        assert "100000002" in done.detail
        assert sandbox.run_code("kept").text == "1"
        printed = sandbox.run_code("print('x' * 100_000_000)", timeout=120)
        assert printed.stdout_truncated
        assert node.rss_bytes() < 160 * MIB


# --- templates, memory ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sealed(guest_image: Image) -> Iterator[Node]:
    """A node of our own with a template, to be stopped and started."""
    with Node(IMAGES, MACHINES__MEMORY_MIB=str(MEMORY_MIB)) as running:
        running.build_template(TEMPLATE, str(guest_image.directory))
        yield running


@contextmanager
def restarted(node: Node, **settings: str) -> Iterator[None]:
    """The node with other settings; with its own ones afterwards."""
    node.stop()
    try:
        node.start(**settings)
        yield
    finally:
        node.stop()
        node.start()


@contextmanager
def changed(node: Node, change: Callable[[Path], None]) -> Iterator[None]:
    """The node after a stop during which its template was changed on disk; undone afterwards."""
    template = node.root / "data" / "templates" / TEMPLATE
    copy = node.root / "copy"
    node.stop()
    subprocess.run(["cp", "-a", "--sparse=always", template, copy], check=True)
    try:
        change(template)
        node.start()
        yield
    finally:
        node.stop()
        shutil.rmtree(template)
        copy.rename(template)
        node.start()


def cut(template: Path) -> None:
    os.truncate(template / files.MEMORY, 4096)


def flip(template: Path) -> None:
    with (template / files.MEMORY).open("r+b") as memory:
        at = os.lseek(memory.fileno(), 1 << 20, os.SEEK_DATA)
        (byte,) = os.pread(memory.fileno(), 1, at)
        os.pwrite(memory.fileno(), bytes([byte ^ 1]), at)


def swap_state(template: Path) -> None:
    state = template / files.DEVICE_STATE
    state.write_bytes(os.urandom(state.stat().st_size))


def make_by_another_qemu(template: Path) -> None:
    path = template / files.MANIFEST
    known = manifest.decode(path.read_bytes())
    vmm = msgspec.structs.replace(known.vmm, version="6.6.6")
    path.write_bytes(manifest.encode(msgspec.structs.replace(known, vmm=vmm)))


@pytest.mark.restarts
@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        pytest.param(cut, ErrorCode.TEMPLATE_CORRUPT, "memory is cut at offset 4096", id="cut"),
        pytest.param(flip, ErrorCode.TEMPLATE_CORRUPT, "memory is changed between", id="flipped"),
        pytest.param(swap_state, ErrorCode.TEMPLATE_CORRUPT, "device_state", id="replaced"),
        pytest.param(
            make_by_another_qemu, ErrorCode.TEMPLATE_INCOMPATIBLE, "6.6.6", id="another QEMU"
        ),
    ],
)
def test_a_changed_template_is_refused(
    sealed: Node, change: Callable[[Path], None], code: ErrorCode, said: str
) -> None:
    with sealed.create(TEMPLATE) as bystander:
        bystander.run_code("x = 41")
        bystander.close()
        with changed(sealed, change):
            before = settle(sealed)
            status, error = raw_reply(sealed, "POST", "/v1/sessions", {"template": TEMPLATE})
            assert (error.code, status) == (code, code.http_status)
            assert said in error.message
            assert TEMPLATE in error.message
            assert error.hint
            assert settle(sealed) == before
            with Sandbox.connect(bystander.sandbox_id, socket=sealed.socket) as survivor:
                assert survivor.run_code("x + 1").text == "42"
    with sealed.create(TEMPLATE) as whole:
        assert whole.run_code("1 + 1").text == "2"


@pytest.mark.restarts
def test_a_node_without_memory_refuses(sealed: Node) -> None:
    with restarted(sealed, ADMISSION__MEMORY_BYTES=str(MIB)):
        status, error = raw_reply(sealed, "POST", "/v1/sessions", {"template": TEMPLATE})
        assert (error.code, status) == ("node_full", 503)
        assert error.hint
        assert settle(sealed).processes == frozenset()


@pytest.mark.restarts
def test_a_machine_beyond_the_hosts_memory_is_refused(sealed: Node, guest_image: Image) -> None:
    total = psutil.virtual_memory().total // MIB
    bounds = {"ADMISSION__MEMORY_BYTES": str(1 << 50), "MACHINES__MAX_MEMORY_MIB": str(total)}
    with restarted(sealed, **bounds), unharmed(sealed):
        wish = {"name": "huge", "image": str(guest_image.directory), "memory_mib": total}
        status, error = raw_reply(sealed, "POST", "/v1/templates", wish)
        assert (error.code, status) == ("no_memory", 507)
        assert "MiB available" in error.message
        assert error.hint


def test_qemu_without_memory_fails_one_request(sealed: Node) -> None:
    daemon = psutil.Process(sealed.pid)
    with unharmed(sealed):
        soft, hard = daemon.rlimit(resource.RLIMIT_AS)
        # The next machine inherits it, and cannot map its guest's RAM; the daemon stays below.
        most = daemon.memory_info().vms + 256 * MIB
        daemon.rlimit(resource.RLIMIT_AS, (most, hard))
        try:
            status, error = raw_reply(sealed, "POST", "/v1/sessions", {"template": TEMPLATE})
        finally:
            daemon.rlimit(resource.RLIMIT_AS, (soft, hard))
        assert (error.code, status) == ("no_memory", 507), error
        assert "Cannot allocate memory" in error.message, "QEMU's own words"
        assert error.hint
        with sealed.create(TEMPLATE) as again:
            assert again.run_code("1 + 1").text == "2"


# --- disk ----------------------------------------------------------------------------------------


@pytest.fixture
def crowded() -> Iterator[Node]:
    """A node whose data directory is smaller than a template; it has a session-less start only."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    made = Node(IMAGES, MACHINES__MEMORY_MIB=str(MEMORY_MIB))
    data = made.root / "data"
    data.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m,mode=700", "tmpfs", str(data)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    try:
        if mounted.returncode != 0:
            pytest.skip(f"mounting is not permitted: {mounted.stderr.strip()}")
        with made:
            yield made
    finally:
        subprocess.run(["umount", "-q", str(data)], check=False)
        shutil.rmtree(made.root, ignore_errors=True)


def failed_build(node: Node, name: str, image: Image, memory_mib: int) -> api.ErrorBody:
    """The error of a build that must fail; the template is removed again."""
    with pytest.raises(SnapStartError):
        node.build_template(name, str(image.directory), memory_mib=memory_mib)
    (failed,) = (one for one in node.templates() if one.name == name)
    assert failed.state is api.TemplateState.FAILED
    assert failed.error is not None
    status, refused = raw_reply(node, "POST", "/v1/sessions", {"template": name})
    assert (refused.code, status) == (failed.error.code, ErrorCode(refused.code).http_status)
    node.remove_template(name)
    return failed.error


def test_a_full_disk_fails_the_build(crowded: Node, guest_image: Image) -> None:
    before = settle(crowded)
    free = shutil.disk_usage(crowded.root / "data").free
    error = failed_build(crowded, "large", guest_image, MEMORY_MIB)
    assert error.code == "disk_full"
    assert str(crowded.root / "data") in error.message
    assert error.hint
    assert settle(crowded) == before
    assert shutil.disk_usage(crowded.root / "data").free >= free - MIB, "nothing is left behind"
    assert crowded.templates() == []


# --- guests --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rogue_image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return build_changed_image(tmp_path_factory.mktemp("rogue"), ROGUE_MAIN, preload=())


@pytest.mark.restarts
@pytest.mark.parametrize(
    # Of its memory the guest's kernel keeps about 40 MiB.
    ("memory_mib", "warm_s", "said"),
    [(384, 10, "no answer in 10 s"), (448, 100, "broke the protocol"), (512, 10, "no answer")],
    ids=["never ready", "garbage", "flood"],
)
def test_a_rogue_guest_becomes_no_template(
    sealed: Node, rogue_image: Image, memory_mib: int, warm_s: int, said: str
) -> None:
    with restarted(sealed, DEADLINES__WARM_S=str(warm_s)), unharmed(sealed):
        error = failed_build(sealed, "rogue", rogue_image, memory_mib)
        assert error.code in ROGUE_CODES, error
        assert said in error.message, error
        assert error.hint
        assert len(error.message) < 4096, "what a guest floods does not flood the caller"


# --- settings ------------------------------------------------------------------------------------


def run_agentd(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agentd.cli.agentd", *args],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environ},
    )  # fmt: skip


def test_agentd_does_not_start_without_qemu(tmp_path: Path) -> None:
    missing = str(tmp_path / "no-qemu")
    dirs = ("--data-dir", str(tmp_path / "data"), "--run-dir", str(tmp_path / "run"))
    done = run_agentd("serve", *dirs, SNAPSTART_MONITOR__QEMU_BINARY=missing)
    assert done.returncode == ErrorCode.MONITOR_MISSING.exit_code
    assert "Traceback" not in done.stderr
    said = done.stderr.splitlines()[-1]
    assert missing in said
    assert "qemu_binary" in said
    assert not list(tmp_path.glob("run/*.sock"))


@pytest.mark.parametrize("command", ["config check", "serve"])
def test_an_unknown_setting_is_named(tmp_path: Path, command: str) -> None:
    file = tmp_path / "agentd.toml"
    file.write_text("[admission]\nmax_sesions = 3\n")
    done = run_agentd(*command.split(), "--config", str(file))
    assert done.returncode == ErrorCode.CONFIG_INVALID.exit_code
    (said,) = done.stderr.splitlines()
    assert "max_sesions" in said
    assert str(file) in said
    assert done.stdout == ""
