"""The doctor on Kuasar nodes of every kind, and what its command makes of it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentd.cli import doctor_kuasar
from agentd.cli.doctor_checks import Check, Level
from agentd.cli.doctor_kuasar import Node, check_mounts, check_pool, kuasar_checks
from agentd.cli.snapctl import snapctl
from agentd.kuasar.client import Form, PoolStatus
from agentd.settings import Kuasar, Settings
from agentd.settings import Node as ClusterNode
from tests.fakes.kuasar.faults import Abort, Fault
from tests.fakes.kuasar.node import KuasarNode
from tests.fakes.kuasar.sandboxer import Config
from tests.fakes.local_api import FakeLocalApi

RESOLVER = """
[[sandbox.snapshot.annotation_resolvers]]
snapshot_key_annotation = "agentcube.volcano.sh/snapshot-key"
"""
NODE_CONFIG = """
[sandbox.snapshot]
enable_warmfork_restore = true
fallback_to_fresh_boot = true
default_memory_restore_mode = "ondemand"
{resolver}
[template_pool]
store_dir = "/var/lib/kuasar/pool"
gc_watermark = 10
[template_pool.warmfork]
max_per_key = 5
lease_mode = "{lease}"
[hypervisor]
container_storage_backend = "virtio-blk"
"""
# Known on every node: what is not restored boots cold.
ALWAYS = "fallback_to_fresh_boot"


class Place:
    """A node, with the settings of its sandboxer and of its agentd."""

    def __init__(self, root: Path, form: Form) -> None:
        self.root = root
        self.config = Config(gc_watermark=10)
        self.node = KuasarNode(root, form, self.config)
        self.config_file = root / "config.toml"
        self.configure(resolver=RESOLVER if form is Form.GRPC else "")

    def configure(self, lease: str = "shared", resolver: str = "") -> None:
        self.config_file.write_text(NODE_CONFIG.format(lease=lease, resolver=resolver))

    @property
    def settings(self) -> Settings:
        kuasar = Kuasar(
            enabled=True,
            admin_socket=self.node.admin_path,
            grpc_socket=self.node.grpc_path,
            listen_socket=self.config_file.with_name("listen.sock"),
            cri_socket=self.node.cri_path,
            config_file=self.config_file,
        )
        return Settings(node=ClusterNode(enabled=True, name="n1"), kuasar=kuasar)

    def agentd_config(self) -> Path:
        """The same as a file."""
        kuasar = self.settings.kuasar
        lines = [
            f'{name} = "{getattr(kuasar, name)}"'
            for name in ("admin_socket", "grpc_socket", "cri_socket", "config_file")
        ]
        file = self.root / "agentd.toml"
        file.write_text(
            "\n".join(["[node]", "enabled = true", "[kuasar]", "enabled = true", *lines])
        )
        return file

    async def examine(
        self, settings: Settings | None = None, *, age_s: float = 3600.0, answer_s: float = 10.0
    ) -> dict[str, Check]:
        """The verdicts by name, some time after the sandboxer was started."""
        now_s = time.time() + age_s
        found = await kuasar_checks(Node(settings or self.settings, "", now_s, answer_s))
        checks = {one.name: one for one in found}
        assert len(checks) == len(found)
        for one in found:
            assert one.detail
            assert bool(one.hint) == (one.level is not Level.OK), one
        return checks


@pytest.fixture(params=list(Form), ids=["json", "grpc"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path, request.param)
    async with made.node:
        made.node.sandboxer.run("uid-1")
        yield made


@pytest.fixture
def empty(tmp_path: Path) -> Place:
    """Nobody is there yet."""
    return Place(tmp_path, Form.JSON)


def bad(checks: dict[str, Check], level: Level = Level.WARN) -> set[str]:
    """The names of what is that bad."""
    return {name for name, one in checks.items() if one.level is level}


# -- verdicts -------------------------------------------------------------------------------------


async def test_a_healthy_node_has_nothing_to_repair(place: Place) -> None:
    checks = await place.examine()
    assert bad(checks, Level.FAIL) == set()
    assert bad(checks) == {ALWAYS}
    assert place.node.form.value in checks["form"].detail
    assert "lists 1 Pod" in checks["cri socket"].detail
    assert checks["modes"].detail == "at most Fork"
    assert checks["pool"].detail == "0 of 10 templates, 0 in use"
    version = "0.9.0-stand-in" if place.node.form is Form.GRPC else "does not tell"
    assert version in checks["version"].detail


async def test_nothing_is_made_nor_are_sandboxes_asked_for(place: Place) -> None:
    await place.examine()
    assert not place.node.sandboxer.templates
    assert not {"sandbox-list", "ListSandboxes", "GetSandbox"} & set(place.node.calls)


async def test_a_lease_mode_that_makes_forks_single_use_is_told(place: Place) -> None:
    place.configure("exclusive", RESOLVER if place.node.form is Form.GRPC else "")
    checks = await place.examine()
    assert bad(checks) == {ALWAYS, "lease_mode"}
    assert "one session" in checks["lease_mode"].detail
    assert '"shared"' in checks["lease_mode"].hint


async def test_a_missing_resolver_is_told_of_the_form_that_has_them(place: Place) -> None:
    place.configure()
    checks = await place.examine()
    is_grpc = place.node.form is Form.GRPC
    assert bad(checks) == ({ALWAYS, "annotation_resolvers"} if is_grpc else {ALWAYS})


async def test_settings_that_cannot_be_read_leave_the_rest_to_be_told(place: Place) -> None:
    place.config_file.unlink()
    checks = await place.examine()
    assert bad(checks) == {"config file"}
    assert str(place.config_file) in checks["config file"].detail
    assert checks["pool"].level is Level.OK


async def test_a_dead_socket_is_told_from_an_absent_one(place: Place) -> None:
    await place.node.stop()
    dead = await place.examine()
    assert bad(dead, Level.FAIL) >= {"form", "admin socket"}
    assert dead["form"].detail.startswith("dead-socket: ")
    assert "mount the directory" in dead["form"].hint
    for name in ("pool", "modes", "version", "recovery"):
        assert dead[name].level is Level.WARN
        assert "not asked" in dead[name].detail
    place.node.admin_path.unlink()
    place.node.grpc_path.unlink(missing_ok=True)
    absent = await place.examine()
    assert absent["form"].detail.startswith("absent: ")
    assert absent["cri socket"].level is Level.OK


async def test_an_older_form_is_named(empty: Place) -> None:
    async with empty.node as node:
        node.faults.calls.append(Abort("unknown action: template-create"))
        checks = await empty.examine()
    assert bad(checks, Level.FAIL) >= {"form"}
    assert checks["form"].detail.startswith("from-sandbox: ")
    assert "install" in checks["form"].hint
    assert checks["admin socket"].level is Level.OK


async def test_a_grpc_form_whose_grpc_socket_is_elsewhere_is_named(tmp_path: Path) -> None:
    place = Place(tmp_path, Form.GRPC)
    async with place.node as node:
        node.grpc_path.rename(tmp_path / "elsewhere.sock")
        checks = await place.examine()
    assert checks["form"].detail.startswith("grpc-unreachable: ")
    assert "kuasar.grpc_socket" in checks["form"].hint
    assert bad(checks, Level.FAIL) == {"form", "grpc socket"}


async def test_a_forbidden_socket_says_to_be_root(empty: Place) -> None:
    async with empty.node as node:
        node.admin_path.chmod(0)
        is_root = os.geteuid() == 0
        if is_root:
            os.seteuid(65534)
        try:
            checks = await empty.examine()
        finally:
            if is_root:
                os.seteuid(0)
    assert checks["form"].detail.startswith("not-permitted: ")
    assert "root" in checks["form"].hint
    assert checks["admin socket"].level is Level.FAIL


@pytest.mark.parametrize(
    "fault", ["hang", "drop", b"{}\n", Abort("disk copy failed")],
    ids=["hang", "drop", "nonsense", "words"],
)  # fmt: skip
async def test_a_sandboxer_that_talks_no_sense_is_a_fault(empty: Place, fault: Fault) -> None:
    async with empty.node as node:
        node.faults.calls.append(fault)
        checks = await empty.examine(answer_s=1.0)
    assert checks["form"].detail.startswith("fault: ")
    assert checks["form"].level is Level.FAIL


async def test_a_call_that_gets_no_answer_is_one_verdict_of_many(empty: Place) -> None:
    async with empty.node as node:
        node.faults.calls.extend([None, "hang"])
        checks = await empty.examine(answer_s=1.0)
    assert bad(checks, Level.FAIL) == {"pool"}
    assert "within 1 s" in checks["pool"].detail
    assert checks["modes"].level is Level.OK


async def test_a_node_without_a_pool_cannot_fork(place: Place) -> None:
    place.config.has_pool = False
    checks = await place.examine()
    assert bad(checks, Level.FAIL) == {"pool", "modes"}
    assert "[template_pool]" in checks["pool"].hint


async def test_a_sandboxer_that_cannot_fork_is_of_no_use(tmp_path: Path) -> None:
    place = Place(tmp_path, Form.GRPC)
    async with place.node as node:
        node.faults.calls.extend([None, b""])  # who it is, then no capability
        checks = await place.examine()
    assert bad(checks, Level.FAIL) == {"modes"}
    assert checks["modes"].detail == "at most none"


async def test_the_container_runtime_is_needed_by_one_form_alone(place: Place) -> None:
    place.node.cri_path.rename(place.root / "elsewhere.sock")
    check = (await place.examine())["cri socket"]
    is_grpc = place.node.form is Form.GRPC
    assert check.level is (Level.WARN if is_grpc else Level.FAIL)
    assert "kuasar.cri_socket" in check.hint
    assert ("does without" in check.hint) is is_grpc


async def test_sockets_open_to_others_are_told(place: Place) -> None:
    place.node.admin_path.chmod(0o666)
    checks = await place.examine()
    assert bad(checks) == {ALWAYS, "admin socket"}
    assert "0666" in checks["admin socket"].detail
    assert f"chmod go-w {place.node.admin_path}" in checks["admin socket"].hint


async def test_a_grpc_socket_that_a_json_form_left_behind_is_told(tmp_path: Path) -> None:
    place = Place(tmp_path, Form.GRPC)
    async with place.node as node:
        await node.restart(Form.JSON)
        place.configure()
        checks = await place.examine()
    assert bad(checks) == {ALWAYS, "grpc socket"}
    assert f"rm {node.grpc_path}" in checks["grpc socket"].hint


async def test_one_that_was_just_started_may_still_recover(place: Place) -> None:
    checks = await place.examine(age_s=1.0)
    assert bad(checks) == {ALWAYS, "recovery"}
    later = await place.examine(age_s=doctor_kuasar.RECOVERY_S + 60)
    assert later["recovery"].level is Level.OK


async def test_one_that_serves_its_container_runtime_has_recovered_at_any_age(place: Place) -> None:
    path = place.settings.kuasar.listen_socket
    async with await asyncio.start_unix_server(lambda _reader, writer: writer.close(), path):
        checks = await place.examine(age_s=1.0)
    assert checks["recovery"].level is Level.OK
    assert str(path) in checks["recovery"].detail


async def test_an_agentd_that_leaves_the_sandboxer_alone_is_told(place: Place) -> None:
    checks = await place.examine(Settings(kuasar=place.settings.kuasar))
    assert bad(checks) == {ALWAYS, "settings"}
    assert checks["settings"].detail.startswith("node.enabled not set")


@pytest.mark.parametrize(
    ("total", "level", "words"),
    [(7, Level.OK, "7 of 10"), (8, Level.WARN, "nearly full"), (10, Level.WARN, "oldest idle")],
)
def test_a_store_that_fills_is_told_before_it_drops_snapshots(
    total: int, level: Level, words: str
) -> None:
    check = check_pool(PoolStatus(total, {"t1": 2}), 10)
    assert check.level is level
    assert words in check.detail
    assert "1 in use" in check.detail


def test_a_socket_mounted_as_a_file_is_told(tmp_path: Path) -> None:
    odd = tmp_path / "with space" / "admin.sock"
    mounts = [
        "22 1 0:21 / /run rw,nosuid shared:5 - tmpfs tmpfs rw",
        f"30 22 0:21 /a.sock {str(odd).replace(' ', chr(92) + '040')} rw - tmpfs tmpfs rw",
    ]
    grpc = tmp_path / "service.sock"
    assert check_mounts((odd, grpc), mounts[0]).level is Level.OK
    check = check_mounts((odd, grpc), "\n".join(mounts))
    assert check.level is Level.WARN
    assert str(odd) in check.detail
    assert str(grpc) not in check.detail
    assert "directory" in check.hint


# -- the command ----------------------------------------------------------------------------------


async def run(*argv: str, program: str = "") -> tuple[int, str, str]:
    """The command in a process of its own: it has an event loop of its own. program: its Python."""
    code = program or "from agentd.cli.snapctl import main; main()"
    environ = {k: v for k, v in os.environ.items() if not k.startswith("SNAPSTART_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *argv,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environ,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def doctor(place: Place, daemon: FakeLocalApi, provider: str = "snapstart.kuasar.io") -> list[str]:
    daemon.socket_path.chmod(0o660)
    given = {"provider": provider, "config": place.agentd_config(), "socket": daemon.socket_path}
    return ["doctor", *(word for k, v in given.items() for word in (f"--{k}", str(v)))]


async def test_the_command_exits_with_0_if_nothing_fails(
    place: Place, daemon: FakeLocalApi
) -> None:
    code, out, err = await run(*doctor(place, daemon), "--json")
    assert (code, err) == (0, "")
    checks = {one["name"]: one for one in json.loads(out)["checks"]}
    assert checks["form"]["level"] == "ok"
    assert checks["daemon"]["level"] == "ok"
    assert checks["system"]["level"] != "fail"
    assert not {"qemu", "kvm"} & set(checks)


async def test_the_command_exits_with_11_if_something_fails(
    empty: Place, daemon: FakeLocalApi
) -> None:
    code, out, err = await run(*doctor(empty, daemon))
    assert (code, err) == (11, "")
    (form,) = (line for line in out.splitlines() if line.startswith("form "))
    assert "fail" in form
    assert "start the sandboxer" in form
    assert "WHAT TO DO" in out


async def test_grpc_is_loaded_for_no_other_provider(empty: Place, daemon: FakeLocalApi) -> None:
    seen = "import sys; from agentd.cli.snapctl import main\ntry: main()\nexcept SystemExit: "
    seen += "print('grpc' in sys.modules, 'agentd.kuasar' in sys.modules)"
    _, out, _ = await run("doctor", "--socket", str(daemon.socket_path), program=seen)
    assert out.endswith("False False\n")
    argv = doctor(empty, daemon, "snapstart.qemu.org")
    assert (await run(*argv, program=seen))[1].endswith("False False\n")


@pytest.mark.parametrize("name", ["", "kuasar", "snapstart.kuasar.io "])
def test_an_unknown_provider_is_refused_with_those_that_are_known(
    empty: Place, daemon: FakeLocalApi, name: str
) -> None:
    result = CliRunner().invoke(snapctl, doctor(empty, daemon, name))
    assert result.exit_code == 2
    assert repr(name) in result.stderr
    assert "snapstart.qemu.org, snapstart.kuasar.io" in result.stderr
    assert result.stdout == ""


def test_the_provider_may_have_the_name_that_agentd_gives_it(
    empty: Place, daemon: FakeLocalApi
) -> None:
    argv = doctor(empty, daemon, "kuasar-vmm-snapshot")
    with (empty.root / "agentd.toml").open("a") as file:
        file.write('\nprovider = "kuasar-vmm-snapshot"\n')
    result = CliRunner().invoke(snapctl, argv)
    assert result.exit_code == 11
    assert "agentd offers it as kuasar-vmm-snapshot" in result.stdout


def test_settings_of_agentd_that_cannot_be_read_are_an_error(
    empty: Place, daemon: FakeLocalApi
) -> None:
    argv = doctor(empty, daemon)
    (empty.root / "agentd.toml").write_text("[kuasar]\nenable = true\n")
    result = CliRunner().invoke(snapctl, argv)
    assert result.exit_code == 11
    assert "agentd.toml" in result.stderr
    assert "enable" in result.stderr
