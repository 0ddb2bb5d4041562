"""The driver with the real Firecracker, our real guest, the real page server.

FIRECRACKER_BIN names the program. It needs KVM, so all of it runs in the emulated outer machine of
tests/integration/kvm; its times say nothing about a processor that has KVM.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from agentd.image import cpio
from agentd.image.tree import Tree, file
from agentd.pager.places import own_binary
from tests.integration.kvm.outer_image import INSIDE as OUTER
from tests.integration.kvm.outer_image import PYTHON, OuterImage, build_outer_image
from tests.integration.kvm.outer_machine import run_outer_machine

BUILD = Path(__file__).parents[3] / "build/kvm"
INSIDE = Path(__file__).with_name("firecracker_inside.py")
# The outer machine ends itself before it is given up.
DRIVE_DEADLINE_S = 1140
DEADLINE_S = 1200.0
BINARY = os.environ.get("FIRECRACKER_BIN", "")

pytestmark = [
    pytest.mark.kvm,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not BINARY, reason="FIRECRACKER_BIN does not name a Firecracker"),
    pytest.mark.skipif(
        sys.version_info[:2] != PYTHON,
        reason=f"the outer machine has Python {PYTHON}, extension modules are for another",
    ),
]


def with_firecracker(image: OuterImage, directory: Path) -> OuterImage:
    """The outer machine's image with another program to run, what that needs beside it."""
    init = (OUTER / "init.py").read_text()
    patient = re.sub(r"(?m)^DRIVE_DEADLINE_S = \d+", f"DRIVE_DEADLINE_S = {DRIVE_DEADLINE_S}", init)
    assert patient != init
    tree = Tree()
    tree.add("init", file(patient.encode(), 0o755))
    tree.add("opt/drive.py", file(INSIDE.read_bytes()))
    tree.add("opt/firecracker", file(Path(BINARY).read_bytes(), 0o755))
    tree.add("opt/snap-pager", file(own_binary().read_bytes(), 0o755))
    initrd = directory / "initrd"
    with initrd.open("wb") as out:
        with image.initrd.open("rb") as base:
            shutil.copyfileobj(base, out, 1 << 20)
        cpio.write_archive(tree, out)
    return OuterImage(image.kernel, initrd, image.cmdline)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the outer machine tells: one run serves every test here."""
    BUILD.mkdir(parents=True, exist_ok=True)
    directory = tmp_path_factory.mktemp("outer")
    image = with_firecracker(build_outer_image(BUILD), directory)
    console = BUILD / "firecracker.log"
    try:
        told = run_outer_machine(image, console, deadline_s=DEADLINE_S)
    finally:
        image.initrd.unlink()
    assert "failure" not in told, f"{told}; the whole console is in {console}"
    return told


def answers(report: dict[str, Any], member: str) -> list[Any]:
    clones = report["forks"] + report["served"]
    return [clone["answer"][member] for clone in clones]


def test_a_template_says_which_firecracker_saved_it(report: dict[str, Any]) -> None:
    assert report["vmm"]["engine"] == "firecracker"
    assert report["vmm"]["version"] == report["program"]
    assert report["vmm"]["host_cpu"] == report["host"]


def test_what_is_kept_of_the_memory_has_no_zeros(report: dict[str, Any]) -> None:
    assert 0 < report["data_bytes"] < 512 << 20
    assert list(report["checkpoint_ms"]) == ["stop", "save", "keep"]


def test_clones_run_under_kvm_and_not_as_root(report: dict[str, Any]) -> None:
    for clone in report["forks"] + report["served"]:
        assert clone["has_kvm"]
        assert clone["uid"] > 0
        assert list(clone["stages_ms"]) == ["spawn", "load", "resume", "inject", "guest_ready"]


def test_clones_compute_the_same_as_different_machines(report: dict[str, Any]) -> None:
    assert set(answers(report, "sum")) == {499500}
    for member in ("urandom", "numpy_random", "hostname"):
        values = answers(report, member)
        assert len(set(values)) == len(values), f"{member} is the same in two clones: {values}"


def test_clones_have_the_time_of_their_host(report: dict[str, Any]) -> None:
    for clone in report["forks"] + report["served"]:
        began_s, ended_s = clone["answer"]["asked_between_s"]
        assert began_s - 1 <= clone["answer"]["time_s"] <= ended_s + 1


def test_a_clone_does_not_see_what_another_did(report: dict[str, Any]) -> None:
    assert not any(answers(report, "had_mark"))


def test_a_running_clone_is_found_and_spoken_to_by_a_successor(report: dict[str, Any]) -> None:
    assert report["found"] == ["s-1", "s-2"]
    assert report["adopted"]["had_mark"] is True
    assert report["adopted"]["hostname"] == report["forks"][0]["answer"]["hostname"]


def test_the_template_is_unchanged_by_its_clones(report: dict[str, Any]) -> None:
    assert report["is_memory_as_sealed"] is True


def test_a_state_that_was_damaged_is_refused_by_name(report: dict[str, Any]) -> None:
    assert report["refusal"]["code"] == "template_corrupt"
    assert "the monitor exited with status 1" in report["refusal"]["message"]


def test_a_guest_that_ends_ends_its_monitor_and_leaves_its_last_words(
    report: dict[str, Any],
) -> None:
    assert report["panic"]["how"] == "exited with status 0 (its guest ended)"
    assert "Kernel panic" in report["panic"]["console"]


def test_the_page_server_records_a_clone_then_installs_what_it_touched(
    report: dict[str, Any],
) -> None:
    recorded, installed = (clone["served"][0] for clone in report["served"])
    assert all(clone["has_uffd"] for clone in report["served"])
    assert (recorded["method"], recorded["working_set"]) == ("demand", 0)
    assert recorded["faults"] > 0
    assert installed["method"] == "install-before"
    assert installed["prefetched"] > 0
    assert installed["faults"] < recorded["faults"]


def test_a_clone_survives_the_death_of_the_page_server(report: dict[str, Any]) -> None:
    clone = report["served"][1]
    assert clone["after_death"]["had_mark"] is True
    assert clone["after_death"]["hostname"] == clone["answer"]["hostname"]


def test_nothing_is_left_when_the_clones_ended(report: dict[str, Any]) -> None:
    assert report["left"] == {"machines": [], "directories": [], "cgroups": []}
