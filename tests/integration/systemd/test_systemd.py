"""Our units under Debian's systemd as PID 1, in an emulated machine with KVM.

What happens to the agent does not reach the machines; what happens to the page server they wait
for.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from agentd.vmm.limits import choose_limits
from agentd.wire.manifest import Machine
from tests.integration.kvm.inside.drive import MEMORY_MIB
from tests.integration.kvm.outer_image import PYTHON
from tests.integration.kvm.outer_machine import run_outer_machine
from tests.integration.systemd.root_image import build_root_image

BUILD = Path(__file__).parents[3] / "build/systemd"
DEADLINE_S = 5400.0
SLICE = "/snapstart.slice"
SUFFERED = ("upgrade", "kill", "hang", "memory", "stop")

pytestmark = [
    pytest.mark.systemd,
    pytest.mark.timeout(DEADLINE_S + 300),
    pytest.mark.skipif(
        sys.version_info[:2] != PYTHON,
        reason=f"the outer machine has Python {PYTHON}, extension modules are for another",
    ),
]


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """What the outer machine tells: one run serves every test here."""
    BUILD.mkdir(parents=True, exist_ok=True)
    image = build_root_image(BUILD)
    told = run_outer_machine(image, BUILD / "console.log", deadline_s=DEADLINE_S)
    assert "failure" not in told, f"{told}; the whole console is in {BUILD / 'console.log'}"
    return told


@pytest.fixture(scope="module")
def pager(report: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = report["pager"]
    return found


@pytest.fixture(scope="module")
def agent(report: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = report["agentd"]
    return found


def is_whole(answers: dict[str, Any]) -> bool:
    verified = answers["verify"]
    return bool(answers["random"]["ok"] and verified["ok"] and verified.get("wrong", 0) == 0)


# -- the page server ------------------------------------------------------------------------------


def test_the_page_server_is_started_by_the_first_who_asks(pager: dict[str, Any]) -> None:
    assert pager["before_anybody_asked"]["ActiveState"] == "inactive"
    assert pager["running"]["MainPID"] == pager["hello"]["pid"]


def test_systemd_keeps_what_machines_hold_and_what_they_gave_away(pager: dict[str, Any]) -> None:
    assert pager["kept_by"][0] == "both"
    assert pager["kept_by"][1] in ("keeper", "both")
    assert pager["running"]["NFileDescriptorStore"] >= 2


def test_a_killed_page_server_gets_its_descriptors_back(pager: dict[str, Any]) -> None:
    assert pager["after_kill"]["NRestarts"] == pager["running"]["NRestarts"] + 1
    assert pager["waited"]["ok"]
    assert pager["waited"].get("wrong", 0) == 0
    assert all(is_whole(answers) for answers in pager["second"])


def test_a_page_server_that_is_replaced_leaves_them_too(pager: dict[str, Any]) -> None:
    assert pager["after_end"]["MainPID"] != pager["after_kill"]["MainPID"]
    assert all(is_whole(answers) for answers in pager["third"])


def test_a_stop_that_would_close_them_is_refused(pager: dict[str, Any]) -> None:
    assert "refused" in pager["refused"]


def test_no_death_of_it_stops_the_unit_of_machines(pager: dict[str, Any]) -> None:
    assert pager["machines_unit"] == "active"


def test_the_store_is_empty_when_its_machines_are_gone(pager: dict[str, Any]) -> None:
    assert pager["store_at_the_end"] == 0


def test_the_page_server_has_the_rights_it_says_it_needs(pager: dict[str, Any]) -> None:
    """CHOWN, DAC_OVERRIDE, KILL, SYS_PTRACE (capability.h: 0, 1, 5, 19)."""
    assert int(pager["status"]["CapEff"], 16) == 1 << 0 | 1 << 1 | 1 << 5 | 1 << 19
    assert pager["status"]["Seccomp"] == "2"


# -- the agent ------------------------------------------------------------------------------------


def test_the_agent_says_when_it_is_ready(agent: dict[str, Any]) -> None:
    ready = agent["ready"]["agentd.service"]
    assert (ready["ActiveState"], ready["SubState"]) == ("active", "running")
    assert ready["StatusText"] == "listening on /run/snapstart/agentd.sock"
    assert "listening on /run/snapstart/agentd.sock" in agent["status_text"]


def test_a_group_may_use_its_socket(agent: dict[str, Any]) -> None:
    assert (agent["socket"], agent["socket_group"]) == (0o660, "snapstart")


def test_a_machine_is_born_in_the_unit_of_machines(agent: dict[str, Any]) -> None:
    assert agent["agent"]["group"] == f"{SLICE}/agentd.service"
    assert agent["machine"]["group"].startswith(f"{SLICE}/snapstart-machines.service/snapstart-")


def test_a_machine_is_bounded_by_its_group(agent: dict[str, Any]) -> None:
    """The parent has no process of its own, so groups below have controllers."""
    bound = choose_limits(Machine(memory_mib=MEMORY_MIB, vcpus=1))
    assert agent["holder_group"] == f"{SLICE}/snapstart-machines.service/holder"
    assert agent["machine"]["limits"] == {
        "memory.max": str(bound.memory_bytes),
        "pids.max": str(bound.pids),
    }


def test_a_machine_has_no_rights_no_network_and_kvm(agent: dict[str, Any]) -> None:
    machine = agent["machine"]
    assert {machine[name] for name in ("CapEff", "CapPrm")} == {"0" * 16}
    assert (machine["NoNewPrivs"], machine["Seccomp"]) == ("1", "2")
    assert "0" not in machine["Uid"].split()
    assert agent["own_network"] is True
    assert "anon_inode:kvm-vcpu:0" in machine["kvm"]


@pytest.mark.parametrize("what", SUFFERED)
def test_the_session_is_adopted_as_it_was(agent: dict[str, Any], what: str) -> None:
    """Counts on in the same process, whatever became of the agent."""
    told = agent[what]
    assert told["session"]["same"] is True
    assert int(told["session"]["count"]) == SUFFERED.index(what) + 2
    assert told["machines"] == "active"


@pytest.mark.parametrize("what", ["kill", "hang", "memory"])
def test_an_agent_that_failed_is_started_again_by_systemd(agent: dict[str, Any], what: str) -> None:
    assert agent[what]["restarts"] >= 1


def test_a_hung_agent_is_ended_by_the_watchdog(report: dict[str, Any]) -> None:
    told = report["journal"]["systemd"]
    assert any("Watchdog timeout" in line for line in told), told


def test_an_agent_without_memory_is_killed_by_the_kernel_alone(report: dict[str, Any]) -> None:
    told = report["journal"]["systemd"]
    assert any("oom-kill" in line or "OOM killer" in line for line in told), told


def test_a_stopped_agent_leaves_machines_and_their_files(agent: dict[str, Any]) -> None:
    stopped = agent["stopped"]
    assert (stopped["unit"], stopped["machines"]) == ("inactive", "active")
    assert stopped["is_machine_alive"] is True
    assert {"journal", "vms"} <= set(stopped["run"])


def test_the_process_that_holds_the_machines_group_may_die(agent: dict[str, Any]) -> None:
    assert agent["holder"]["unit"]["ActiveState"] == "active"
    assert agent["holder"]["unit"]["SubState"] == "exited"
    assert agent["holder"]["is_machine_alive"] is True


def test_a_reload_keeps_the_process(agent: dict[str, Any]) -> None:
    assert agent["reload"]["same"] is True
    assert agent["reload"]["session"]["same"] is True


def test_stopping_the_unit_of_machines_ends_them_and_the_agent(agent: dict[str, Any]) -> None:
    stopped = agent["machines_stopped"]
    assert set(stopped["units"].values()) == {"inactive"}
    assert stopped["is_machine_alive"] is False
    assert stopped["group"] is False


def test_an_agent_after_that_begins_with_nothing(agent: dict[str, Any]) -> None:
    assert agent["sessions_then"]["sessions"] == []
    assert agent["left"]["processes"] == agent["left"]["directories"] == []
    assert not [name for name in agent["left"]["cgroups"] if name.count("-") > 1]


def test_the_journal_has_the_events(report: dict[str, Any]) -> None:
    """JSON, by the environment file; what is not is nobody's of ours."""
    told = report["journal"]
    assert {"daemon.ready", "daemon.stopping", "adoption.adopted"} <= set(told["events"])
    assert told["unparsed"] == []


def test_the_documented_commands_install_the_units(report: dict[str, Any]) -> None:
    assert report["install"]["enabled"] == "enabled"


def test_the_documented_commands_remove_them(report: dict[str, Any]) -> None:
    assert report["remove"]["units"] == ""
    assert report["remove"]["files"] == []


def test_no_unit_failed(report: dict[str, Any]) -> None:
    assert report["failed_units"] == []
