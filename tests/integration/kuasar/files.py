"""The files that a real sandboxer reads when it starts: settings, templates, sandboxes.

Their shape is the sandboxer's own affair; should another version not take them, the tests that use
them fail and say so in its log.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.kuasar.sandboxer import ENVIRONMENT, WARM_FORK

_CGROUPS = Path("/sys/fs/cgroup")
_DIRECTORIES = {WARM_FORK: "warmfork", ENVIRONMENT: "environment"}


@dataclass(frozen=True)
class Kept:
    """A template. uses: sandboxes that were restored from it, and have stopped since."""

    template_id: str
    key: str
    kind: str = WARM_FORK
    created_at_s: int = 1_700_000_000
    uses: int = 0


def settings_text(store: Path, *, has_pool: bool) -> str:
    """Of a node that can snapshot, unless it has no pool; as TOML."""
    pool = _POOL.format(store=json.dumps(str(store))) if has_pool else ""
    return _SANDBOX.format(has_pool=str(has_pool).lower()) + pool + _MACHINE


_SANDBOX = """
[sandbox]
log_level = "info"
[sandbox.snapshot]
enable_warmfork_restore = {has_pool}
"""
_POOL = """
[template_pool]
store_dir = {store}
[template_pool.warmfork]
lease_mode = "shared"
max_per_key = 5
"""
_MACHINE = """
[hypervisor]
path = "/bin/false"
vcpus = 1
memory_in_mb = 256
kernel_path = "/nonexistent/kernel"
image_path = "/nonexistent/image"
hugepages = false
entropy_source = "/dev/urandom"
container_storage_backend = "virtio-blk"
[hypervisor.task]
debug = false
enable_tracing = false
"""


def lay_out(directory: Path, kept: Iterable[Kept]) -> None:
    """Make the directories of a sandboxer, with these templates and the sandboxes that use them."""
    (directory / "run").mkdir()
    (directory / "store").mkdir()
    for one in kept:
        home = directory / "store" / _DIRECTORIES[one.kind] / one.template_id
        (home / "snapshot").mkdir(parents=True)
        (home / "pooled_template.json").write_text(json.dumps(_template(one, home / "snapshot")))
        for number in range(one.uses):
            home = directory / "run" / sandbox_id(one, number)
            home.mkdir()
            (home / "sandbox.json").write_text(json.dumps(_sandbox(one, home)))


def keep_recovering(directory: Path) -> None:
    """Add a sandbox whose file does not come to an end when it is read."""
    home = directory / "run" / "kuasar-test-endless"
    home.mkdir()
    os.mkfifo(home / "sandbox.json")


def sandbox_id(kept: Kept, number: int) -> str:
    """Of a sandbox that was restored from it."""
    return f"kuasar-test-{os.getpid()}-{kept.template_id[:12]}-{number}"


def _template(one: Kept, snapshot: Path) -> dict[str, Any]:
    return {
        "id": one.template_id,
        "key": {"key": one.key},
        "snapshot_dir": str(snapshot),
        "snapshot_type": one.kind,
        "created_at_secs": one.created_at_s,
        "pmem_path": "/nonexistent/image",
        "kernel_path": "/nonexistent/kernel",
        "vcpus": 1,
        "memory_mb": 256,
        "original_task_vsock": "",
        "original_console_path": "",
        "netns": "",
    }


def _sandbox(one: Kept, home: Path) -> dict[str, Any]:
    """Stopped, so that nothing is looked for that would have to run."""
    return {
        "id": home.name,
        "base_dir": str(home),
        "status": {"Stopped": [0, 0]},
        "vm": _vm(home),
        "data": {
            "id": home.name,
            "spec": None,
            "config": None,
            "netns": "",
            "task_address": "",
            "labels": {},
            "created_at": None,
            "started_at": None,
            "exited_at": None,
            "extensions": {},
        },
        "containers": {},
        "storages": [],
        "id_generator": 0,
        "network": None,
        "restore": {
            "template_id": one.template_id,
            "template_key": one.key,
            "template_snapshot_type": one.kind,
            "lease_mode": "shared",
            "reflink_supported": False,
            "memory_restore_mode": "ondemand",
            "orphan_container_ids": [],
        },
    }


def _vm(home: Path) -> dict[str, Any]:
    cpus: dict[str, Any] = {
        "boot": 1,
        "max": None,
        "topology": None,
        "affinity": [],
        "features": [],
    }
    memory = {
        "size": 256 << 20,
        "shared": False,
        "hugepages": False,
        "hugepage_size": None,
        "prefault": None,
        "thp": None,
    }
    return {
        "id": home.name,
        "base_dir": str(home),
        "netns": "",
        "agent_socket": "",
        "config": {
            "path": "/bin/false",
            "api_socket": str(home / "api.sock"),
            "cpus": cpus,
            "memory": memory,
            "kernel": "/nonexistent/kernel",
            "cmdline": "",
            "initramfs": None,
            "log_file": None,
            "debug": False,
        },
        "virtiofsd_config": {
            "path": "",
            "log_level": "",
            "cache": "",
            "thread_pool_size": 0,
            "socket_path": "",
            "shared_dir": "",
            "syslog": False,
        },
        "pids": {"vmm_pid": None, "affiliated_pids": []},
    }


def forget_cgroups(run: Path) -> None:
    """A sandboxer makes cgroups for each sandbox that it finds again, and here none is deleted."""
    for home in run.iterdir():
        for found in [_CGROUPS / home.name, *_CGROUPS.glob(f"*/{home.name}")]:
            _remove(found)


def _remove(cgroup: Path) -> None:
    """Like rmdir of it, which a cgroup without children takes, whatever files it shows."""
    if cgroup.is_dir():
        for child in cgroup.iterdir():
            if child.is_dir():
                _remove(child)
        cgroup.rmdir()
