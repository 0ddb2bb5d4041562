"""The real Cloud Hypervisor: our driver, our guest, under KVM in an emulated machine.

Set CLOUD_HYPERVISOR_BIN to the program. The outer machine is that of tests/integration/kvm: it runs
anywhere, slowly, and its times say nothing.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from agentd.image import cpio, list_images
from agentd.image.tree import Tree, file
from agentd.pager.places import own_binary
from agentd.vmm.cloud_hypervisor_versions import Version
from tests.fakes.cloud_hypervisor_answers import differences
from tests.integration.conftest import IMAGES
from tests.integration.kvm.outer_image import INSIDE as OUTER
from tests.integration.kvm.outer_image import PYTHON, ROOT, OuterImage, build_outer_image
from tests.integration.kvm.outer_machine import run_outer_machine

BUILD = ROOT / "build/cloud-hypervisor"
INSIDE = Path(__file__).with_name("cloud_hypervisor_inside.py")
BINARY = os.environ.get("CLOUD_HYPERVISOR_BIN", "")
# The outer machine ends itself before it is given up.
DRIVE_DEADLINE_S = 1140
DEADLINE_S = 1200.0

pytestmark = [
    pytest.mark.kvm,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not BINARY, reason="CLOUD_HYPERVISOR_BIN does not name the program"),
    pytest.mark.skipif(
        sys.version_info[:2] != PYTHON,
        reason=f"the outer machine has Python {PYTHON}, extension modules are for another",
    ),
]


def with_program(image: OuterImage, program: Path) -> OuterImage:
    """The outer machine with the program in it, and with what drives it there."""
    init = (OUTER / "init.py").read_text()
    patient = re.sub(r"(?m)^DRIVE_DEADLINE_S = \d+", f"DRIVE_DEADLINE_S = {DRIVE_DEADLINE_S}", init)
    assert patient != init
    tree = Tree()
    tree.add("init", file(patient.encode(), 0o755))
    tree.add("usr/bin/cloud-hypervisor", file(program.read_bytes(), 0o755))
    tree.add("opt/drive.py", file(INSIDE.read_bytes()))
    tree.add("opt/snap-pager", file(own_binary().read_bytes(), 0o755))
    initrd = BUILD / "with-cloud-hypervisor.cpio"
    with initrd.open("wb") as out, image.initrd.open("rb") as base:
        shutil.copyfileobj(base, out, 1 << 20)
        cpio.write_archive(tree, out)
    return OuterImage(image.kernel, initrd, image.cmdline)


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """What the outer machine tells: one run serves every test here."""
    BUILD.mkdir(parents=True, exist_ok=True)
    image = with_program(build_outer_image(BUILD), Path(BINARY))
    told = run_outer_machine(image, BUILD / "console.log", deadline_s=DEADLINE_S)
    assert "failure" not in told, f"{told}; the whole console is in {BUILD / 'console.log'}"
    return told


@pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="needs /dev/kvm")
async def test_it_answers_as_the_stand_in_does(tmp_path: Path) -> None:
    """Without a guest that runs, so that any KVM will do."""
    images = list_images(IMAGES)
    if not images:
        pytest.skip("no guest image was built yet")
    shutil.copy(images[0].kernel_path, tmp_path / "kernel")
    socket = tmp_path / "api.sock"
    process = await asyncio.create_subprocess_exec(
        BINARY, "--api-socket", f"path={socket}", stderr=asyncio.subprocess.DEVNULL
    )
    try:
        assert await differences(socket, tmp_path) == []
        assert await asyncio.wait_for(process.wait(), 20) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def answers(report: dict[str, Any], member: str) -> list[Any]:
    everyone = [*report["forks"], *report["modes"].values(), *report["offloads"]]
    return [fork["answer"][member] for fork in everyone]


def test_a_template_is_built_by_a_machine_that_is_not_root(report: dict[str, Any]) -> None:
    assert report["booted_uid"] > 0
    assert "waiting for a host" in report["console"]
    assert {"stop", "save", "keep"} <= report["checkpoint_ms"].keys()


def test_forks_start_and_are_not_root(report: dict[str, Any]) -> None:
    assert len(report["forks"]) == 2
    for fork in report["forks"]:
        assert fork["uid"] > 0
        assert {"spawn", "load", "resume", "inject", "guest_ready"} <= fork["stages_ms"].keys()


def test_every_mode_restores_the_same_guest(report: dict[str, Any]) -> None:
    assert {"Mapped", "Copy"} <= report["modes"].keys()
    assert set(answers(report, "sum")) == {499500}
    for member in ("urandom", "numpy_random", "hostname", "boot_id"):
        values = answers(report, member)
        assert len(set(values)) == len(values), f"{member} is the same in two forks: {values}"


def test_forks_have_the_time_of_their_host(report: dict[str, Any]) -> None:
    """Their clocks stood still since the checkpoint."""
    for fork in [*report["forks"], *report["modes"].values()]:
        began_s, ended_s = fork["answer"]["asked_between_s"]
        assert began_s - 1 <= fork["answer"]["time_s"] <= ended_s + 1


def test_guests_cannot_run_guests(report: dict[str, Any]) -> None:
    """The outer machine's processor is AMD's, of which older versions hide nothing."""
    release = Version.parse(report["version"])
    assert release is not None
    assert set(answers(report, "can_nest")) == {release < Version(52)}


def test_a_mapped_clone_shares_what_it_does_not_write(report: dict[str, Any]) -> None:
    modes = report["modes"]
    assert modes["Mapped"]["private_bytes"] < report["data_bytes"] / 2
    assert modes["Copy"]["private_bytes"] > report["data_bytes"] / 2


def test_a_page_server_fills_clones_that_cannot_map(report: dict[str, Any]) -> None:
    """Where the version has the protocol; the first clone is recorded for the second."""
    release = Version.parse(report["version"])
    assert release is not None
    assert report["can_offload"] is (release >= Version(53))
    if not report["can_offload"]:
        return
    first, second = (one["served"] for one in report["offloads"])
    assert first["protocol"] == second["protocol"] == "offload"
    assert first["faults"] > 0
    assert (first["working_set"], first["prefetched"]) == (0, 0)
    assert second["working_set"] > 0
    assert second["prefetched"] > 0


def test_a_fork_does_not_see_what_another_did(report: dict[str, Any]) -> None:
    assert not any(answers(report, "had_mark"))
    assert report["is_memory_as_sealed"] is True


def test_a_session_survives_its_daemon(report: dict[str, Any]) -> None:
    assert report["adopted"]["had_mark"] is True
    assert report["adopted"]["hostname"] == report["forks"][0]["answer"]["hostname"]


def test_a_guest_that_resets_its_machine_ends_it(report: dict[str, Any]) -> None:
    assert "Kernel panic" in report["reset_said"]
    assert report["reset"].startswith("exited with status"), report["reset_said"]


def test_nothing_is_left_when_the_sessions_ended(report: dict[str, Any]) -> None:
    assert report["left"] == {"machines": [], "directories": [], "cgroups": []}
