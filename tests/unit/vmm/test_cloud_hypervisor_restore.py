"""What a clone is told in each mode, and how another machine than that one is noticed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from agentd.errors import ErrorCode, PeerError
from agentd.vmm.cloud_hypervisor_api import Info
from agentd.vmm.cloud_hypervisor_offload import migration_config
from agentd.vmm.cloud_hypervisor_restore import Plan, check_restored, plan_restore
from agentd.vmm.cloud_hypervisor_snapshot import Snapshot, SnapshotDamagedError, decode_snapshot
from agentd.vmm.cloud_hypervisor_versions import RestoreMode, Version
from tests.unit.vmm.test_cloud_hypervisor_snapshot import encode

V52, V53 = Version(52), Version(53)
HERE = "file:///proc/self/fd/20"


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    return decode_snapshot(encode())


def config_of(plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(plan.files["config.json"])
    return found


def test_what_is_mapped_is_not_read_again(snapshot: Snapshot) -> None:
    plan = plan_restore(snapshot, RestoreMode.MAPPED, V53)
    assert plan.files["state.json"] == snapshot.mapped_state
    assert plan.links == {}
    assert config_of(plan)["memory"]["zones"][0]["file"] == "/proc/self/fd/12"
    assert plan.order is not None
    assert plan.order.memory_restore_mode is None


@pytest.mark.parametrize("mode", [RestoreMode.COPY_ON_WRITE, RestoreMode.ON_DEMAND])
def test_a_mode_that_the_monitor_has_is_named(snapshot: Snapshot, mode: RestoreMode) -> None:
    plan = plan_restore(snapshot, mode, V53)
    assert plan.files["state.json"] == snapshot.state
    assert plan.links == {"memory-ranges": "/proc/self/fd/12"}
    assert "file" not in config_of(plan)["memory"]["zones"][0]
    assert plan.order is not None
    assert (plan.order.source_url, plan.order.memory_restore_mode) == (HERE, mode.value)


def test_copying_is_not_named_because_old_versions_do_nothing_else(snapshot: Snapshot) -> None:
    plan = plan_restore(snapshot, RestoreMode.COPY, V53)
    assert plan.order is not None
    assert plan.order.memory_restore_mode is None
    assert plan.links == {"memory-ranges": "/proc/self/fd/12"}


def test_a_page_server_sends_what_a_migration_would(snapshot: Snapshot) -> None:
    plan = plan_restore(snapshot, RestoreMode.OFFLOAD, V53)
    assert plan.order is None
    assert plan.files == {}, "what is sent is none of the machine's files"
    said = json.loads(plan.sent["migration.json"])
    assert said["vm_config"] == plan.config
    assert said["vm_config"]["memory"]["zones"][0]["shared"] is True
    assert said["common_cpuid"] == []
    assert said["memory_manager_data"]["guest_ram_mappings"][0]["gpa"] == 0
    assert plan.sent["migration-state.json"] == snapshot.state


@pytest.mark.parametrize("state", [b"{}", b"[]", b'{"snapshot_data":{"state":"{}"}}', b"x"])
def test_a_migration_cannot_be_made_of_half_a_state(state: bytes) -> None:
    with pytest.raises(SnapshotDamagedError, match="does not say what a clone needs"):
        migration_config({}, state)


def test_a_console_that_would_lose_everything_is_not_listened_to(snapshot: Snapshot) -> None:
    def serial(version: Version) -> Any:
        return plan_restore(snapshot, RestoreMode.COPY, version).config["serial"]

    assert serial(V52) == {"mode": "Null"}
    assert serial(V53) == {"mode": "Socket", "socket": "/proc/self/fd/20/console.sock"}


@pytest.mark.parametrize("mode", list(RestoreMode))
def test_the_machine_that_was_planned_is_accepted(snapshot: Snapshot, mode: RestoreMode) -> None:
    plan = plan_restore(snapshot, mode, V53)
    (zone,) = plan.config["memory"]["zones"]
    shown = {**zone, "hugepages": False, "file": zone.get("file")}  # v51 shows what is absent
    check_restored(Info({"memory": {"zones": [shown]}}, "Paused"), plan)


@pytest.mark.parametrize(
    ("info", "words"),
    [
        (Info({"memory": {"zones": [{"id": "ram", "shared": False}]}}, "Paused"), "its memory is"),
        (Info({"memory": {"zones": None}}, "Paused"), "its memory is"),
        (Info({}, "Paused"), "its memory is"),
        (Info({}, "Running"), "it is 'Running'"),
        (Info({}, "Created"), "it is 'Created'"),
    ],
    ids=["file_ignored", "no_zones", "nothing", "runs", "not_restored"],
)
def test_another_machine_than_that_is_an_error(snapshot: Snapshot, info: Info, words: str) -> None:
    plan = plan_restore(snapshot, RestoreMode.MAPPED, V53)
    with pytest.raises(PeerError, match=words) as caught:
        check_restored(info, plan)
    assert caught.value.code is ErrorCode.VMM_PROTOCOL


def test_a_snapshot_that_cannot_be_mapped_is_never_planned_so(snapshot: Snapshot) -> None:
    with pytest.raises(AssertionError):
        plan_restore(replace(snapshot, mapped_state=None), RestoreMode.MAPPED, V53)
