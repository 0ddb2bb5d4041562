"""What Cloud Hypervisor answers, as v51.0, v53.0 and a build after v53.0 did, call for call.

The stand-in is held to it always, the real program where it can be had. No call lets a guest run.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from agentd.vmm.cloud_hypervisor_api import parse_chain
from agentd.vmm.http_socket import HttpSocket

Release = tuple[int, int]
T = TypeVar("T")
OLDEST: Release = (48, 0)
API = "Error from API"
FAILED = "Failed to deserialize JSON"
SEND = "Failed to send migratable component snapshot"
RECEIVE = "Failed to receive migratable component snapshot"
CREATED, RESTORED = "The VM could not be created", "The VM could not be restored"
BOOTED, TAKEN = "The VM could not boot", "The VM could not be snapshotted"


@dataclass(frozen=True)
class Step:
    """One call. body: made of a directory; None for none. status, chain: since which release; a
    chain of None is not looked at.
    """

    method: str
    action: str
    body: Callable[[Path], Any] | None
    status: Mapping[Release, int]
    chain: Mapping[Release, list[str] | None]


def step(
    method: str,
    action: str,
    status: int | Mapping[Release, int],
    chain: list[str] | Mapping[Release, list[str] | None] | None = None,
    body: Callable[[Path], Any] | None = None,
) -> Step:
    always = status if isinstance(status, Mapping) else {OLDEST: status}
    words = chain if isinstance(chain, Mapping) else {OLDEST: chain}
    return Step(method, action, body, always, words)


def machine(**members: Any) -> Callable[[Path], Any]:
    quiet = {"serial": {"mode": "Off"}, "console": {"mode": "Off"}, "not_known": 1}
    return lambda _path: {"payload": {"kernel": "/nonexistent"}, **quiet, **members}


def channel(name: str) -> Callable[[Path], Any]:
    def body(path: Path) -> Any:
        config = machine()(path)
        config["payload"]["kernel"] = str(path / "kernel")
        return {**config, "vsock": {"cid": 3, "socket": str(path / name)}}

    return body


def url(suffix: str) -> Callable[[Path], Any]:
    return lambda path: {"source_url": f"file://{path}{suffix}"}


MISSING = {OLDEST: 500, (53, 0): 404}
NO_CONFIG: Mapping[Release, list[str] | None] = {
    OLDEST: [API, RESTORED, "Cannot restore VM", RECEIVE, "No such file or directory (os error 2)"],
    (53, 0): None,  # names the file besides
}
VSOCK = [API, BOOTED, "Error from device manager", "Cannot create virtio-vsock backend"]
BIND = "Error binding to the host-side Unix socket"

CONVERSATION = [
    step("GET", "vmm.ping", 200),
    step("GET", "nothing", 404, ["Not Found"]),
    step("GET", "vm.create", 400, ["Bad Request"]),
    step("PUT", "vmm.ping", 400, ["Bad Request"]),
    step("PUT", "vm.pause", 500, [API, "The VM could not be paused", "VM is not running"]),
    step("PUT", "vm.resume", 500, [API, "The VM could not resume", "VM is not running"]),
    step("GET", "vm.info", MISSING, [API, "The VM info is not available", "VM is not created"]),
    step("PUT", "vm.boot", MISSING, [API, BOOTED, "VM config is missing"]),
    step(
        "PUT",
        "vm.snapshot",
        500,
        [API, TAKEN, "VM is not running"],
        lambda path: {"destination_url": f"file://{path}"},
    ),
    step(
        "PUT",
        "vm.snapshot",
        400,
        [FAILED, "missing field `destination_url` at line 1 column 2"],
        lambda _path: {},
    ),
    step("PUT", "vm.create", 400),
    step("PUT", "vm.pause", 400, ["Bad Request"], lambda _path: {}),
    step(
        "PUT",
        "vm.restore",
        400,
        [FAILED, "missing field `source_url` at line 1 column 2"],
        lambda _path: {},
    ),
    step("PUT", "vm.restore", 500, NO_CONFIG, url("")),
    step("PUT", "vm.restore", 500, None, url("/not-there")),
    step(
        "PUT",
        "vm.restore",
        400,
        ["Bad Request"],
        lambda path: {**url("")(path), "net_fds": [{"id": "n", "num_fds": 1}]},
    ),
    step("PUT", "vm.create", 204, None, machine()),
    step("PUT", "vm.create", 500, [API, CREATED, "VM is already created"], machine()),
    step("GET", "vm.info", 200),
    step("PUT", "vm.restore", 500, [API, RESTORED, "VM is already created"], url("")),
    step(
        "PUT",
        "vm.boot",
        500,
        [API, BOOTED, "Cannot open kernel file", "No such file or directory (os error 2)"],
    ),
    step("PUT", "vm.delete", 204),
    step("PUT", "vm.create", 204, None, channel("no-directory/x")),
    step("PUT", "vm.boot", 500, [*VSOCK, BIND, "No such file or directory (os error 2)"]),
    step("PUT", "vm.delete", 204),
    step("PUT", "vm.create", 204, None, channel("kernel")),
    step("PUT", "vm.boot", 500, [*VSOCK, BIND, "Address already in use (os error 98)"]),
    step("PUT", "vm.delete", 204),
    step("GET", "vm.info", MISSING, [API, "The VM info is not available", "VM is not created"]),
    step("PUT", "vmm.shutdown", 200),
]


def of(release: Release, by_release: Mapping[Release, T]) -> T:
    """What holds for a release."""
    return by_release[max(since for since in by_release if since <= release)]


async def differences(path: Path, directory: Path) -> list[str]:
    """Where a program that serves on a socket, perhaps soon, answers otherwise.

    directory: has `kernel`.
    """
    await asyncio.to_thread(wait_until_served, path)
    found = []
    async with HttpSocket(path) as http:
        release = await _release(http)
        for number, one in enumerate(CONVERSATION):
            body = None if one.body is None else json.dumps(one.body(directory)).encode()
            answer = await http.call(one.method, f"/api/v1/{one.action}", body, deadline_s=20)
            expected = of(release, one.status), of(release, one.chain)
            chain = parse_chain(answer.body) if expected[1] is not None else None
            if (answer.status, chain) != expected:
                found.append(f"{number} {one.action}: {answer.status} {answer.body!r}")
    return found


async def _release(http: HttpSocket) -> Release:
    """The release that a program will be, as it says."""
    answer = await http.call("GET", "/api/v1/vmm.ping", deadline_s=20)
    major, minor, _patch = json.loads(answer.body)["version"].split(".")
    return int(major), int(minor)


def wait_until_served(path: Path) -> None:
    """Blocks until somebody listens on a socket, which one that was left behind is not."""
    give_up_s = time.monotonic() + 20
    while True:
        with socket.socket(socket.AF_UNIX) as client:
            if client.connect_ex(str(path)) == 0:
                return
        assert time.monotonic() < give_up_s, f"nobody listens on {path}"
        time.sleep(0.01)
