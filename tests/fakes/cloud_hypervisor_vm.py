"""One machine of the Cloud Hypervisor stand-in: what its monitor does with it, as refusals, files.

What is refused with which words was read off v51.0, v53.0 and a build after it. Imports nothing of
the product: it runs in a process of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cloud_hypervisor_memory import (  # type: ignore[import-not-found]
    ApiError,
    Memory,
    os_error,
)

CPUID = [{"function": 1, "index": 0, "eax": 1, "ebx": 2, "ecx": 3, "edx": 4}]
_MIGRATE_SEND = "Failed to send migratable component snapshot"
_MIGRATE_RECEIVE = "Failed to receive migratable component snapshot"


class Vmm:
    """A monitor without a machine, or with one. emit: of the event stream. settings: of the
    stand-in: version, words for what goes wrong, what its host's CPU can do.
    """

    def __init__(
        self,
        version: tuple[int, int],
        settings: dict[str, Any],
        emit: Callable[[str, str], None],
        on_change: Callable[[], None],
    ) -> None:
        self.version = version
        self.faults = frozenset(settings.get("faults", ()))
        self.settings = settings
        self.config: dict[str, Any] | None = None
        self.state = "Created"
        self.memory = Memory(is_file=version[0] == 52)
        self.channel: socket.socket | None = None
        self.console: socket.socket | None = None
        self.console_fd = -1
        self.pages_by: socket.socket | None = None
        self._emit = emit
        self._on_change = on_change

    @property
    def is_owned(self) -> bool:
        """Whether there is a machine, not only its description."""
        return self.state in ("Running", "Paused")

    # -- a machine of its own -------------------------------------------------------------

    def create(self, config: dict[str, Any]) -> None:
        self._require_config(config)
        if self.config is not None:
            raise ApiError("The VM could not be created", "VM is already created")
        self.config = _complete(config)
        self._open_console("The VM could not be created")

    def boot(self) -> None:
        doing = "The VM could not boot"
        if self.is_owned:
            raise ApiError(doing, self._already())
        if self.config is None:
            raise ApiError(doing, "VM config is missing", kind="missing")
        self._emit("vm", "booting")
        payload = self.config.get("payload") or {}
        if not payload.get("kernel"):
            raise ApiError(doing, *_INVALID, "No bootitem provided: neither firmware nor kernel")
        for name, what in (("kernel", "kernel"), ("initramfs", "initramfs")):
            self._read_payload(payload.get(name), what, doing)
        self._map_new(doing)
        self._bind_channel(doing)
        guest = {"cmdline": payload.get("cmdline", ""), "booted": os.urandom(8).hex()}
        self.memory.boot(guest, self.settings.get("data_bytes", 8192))
        self._set("Running")
        self._emit("vm", "booted")

    def _already(self) -> str:
        if self.version >= (53, 0):
            return "VM is already created"
        return f"invalid VM state transition: {self.state} to Running"

    def _read_payload(self, path: str | None, what: str, doing: str) -> None:
        if path is None:
            return
        try:
            with open(path, "rb") as file:
                file.read(1)
        except OSError as exc:
            raise ApiError(doing, f"Cannot open {what} file", os_error(exc)) from exc

    def _map_new(self, doing: str) -> None:
        assert self.config is not None
        gap_at = self.settings.get("gap_at", 3 << 30)
        gpa = 0
        try:
            for zone in self._zones():
                at = 0
                while at < zone["size"]:
                    size = zone["size"] - at
                    if gpa < gap_at:
                        size = min(size, gap_at - gpa)
                    self.memory.map(zone, gpa, size, at)
                    at, gpa = at + size, gpa + size
                    gpa = 4 << 30 if gpa == gap_at else gpa
        except ApiError as exc:
            raise ApiError(doing, "Memory manager error", *exc.chain) from exc

    def _zones(self) -> list[dict[str, Any]]:
        assert self.config is not None
        memory = self.config["memory"]
        return memory.get("zones") or [
            {"id": "mem0", "size": memory["size"], "shared": memory.get("shared", False)}
        ]

    def _open_console(self, doing: str) -> None:
        assert self.config is not None
        serial = self.config["serial"]
        try:
            if serial["mode"] == "File":
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
                self.console_fd = os.open(serial["file"], flags, 0o644)
            elif serial["mode"] == "Socket":
                self.console = _listen(serial["socket"])
        except OSError as exc:
            reasons = "Error creating console devices", "Error creating console device"
            raise ApiError(doing, *reasons, os_error(exc)) from exc

    def _bind_channel(self, doing: str) -> None:
        assert self.config is not None
        if not (vsock := self.config.get("vsock")):
            return
        try:
            self.channel = _listen(vsock["socket"])
        except OSError as exc:
            raise ApiError(
                doing,
                "Error from device manager",
                "Cannot create virtio-vsock backend",
                "Error binding to the host-side Unix socket",
                os_error(exc),
            ) from exc

    def write_console(self, data: bytes) -> None:
        """What a guest prints; a file that is full takes no more."""
        if self.console_fd >= 0:
            with contextlib.suppress(OSError):
                os.write(self.console_fd, data)

    # -- one that runs --------------------------------------------------------------------

    def pause(self) -> None:
        self._require_machine("The VM could not be paused")
        self._emit("vm", "pausing")
        self._move("Running", "Paused", ("The VM could not be paused", "Cannot pause VM", "pause"))
        self._emit("vm", "paused")

    def resume(self) -> None:
        self._require_machine("The VM could not resume")
        self._emit("vm", "resuming")
        self._move("Paused", "Running", ("The VM could not resume", "Cannot resume VM", "resume"))
        self._emit("vm", "resumed")

    def _move(self, source: str, target: str, words: tuple[str, str, str]) -> None:
        if self.state != source:
            transition = f"InvalidStateTransition({self.state}, {target})"
            component = f"Failed to {words[2]} migratable component"
            raise ApiError(*words[:2], component, f"Invalid transition: {transition}")
        self._set(target)

    def _require_machine(self, doing: str) -> None:
        if not self.is_owned:
            raise ApiError(doing, "VM is not running")

    def info(self) -> dict[str, Any]:
        if self.config is None:
            raise ApiError("The VM info is not available", "VM is not created", kind="missing")
        size = sum(zone["size"] for zone in self._zones())
        config = self.config
        if "other_machine" in self.faults:
            memory = {**config["memory"], "zones": [{"id": "other", "size": size}]}
            config = {**config, "memory": memory}
        return {"config": config, "state": self.state, "memory_actual_size": size}

    def reset(self) -> None:
        """What a guest that resets its machine gets: the same machine, booted again. If that
        fails, the monitor ends.
        """
        config = self.config
        self._emit("vm", "rebooting")
        self._shut()
        self.config = config
        try:
            self._open_console("The VM could not reboot")
            self.boot()
        except ApiError as exc:
            print(f"Error: VmReboot: {exc}", flush=True)
            os._exit(1)

    def delete(self) -> None:
        self._shut()
        self._emit("vm", "deleted")

    def shutdown(self) -> None:
        self._require_machine("The VM could not shutdown")
        self._shut()
        self._emit("vm", "shutdown")

    def _shut(self) -> None:
        """The sockets' files stay, except the channel's."""
        if self.channel is not None and self.config is not None:
            self.channel.close()
            Path(self.config["vsock"]["socket"]).unlink(missing_ok=True)
        if self.console is not None:
            self.console.close()
        if self.console_fd >= 0:
            os.close(self.console_fd)
        self.channel = self.console = self.config = None
        self.console_fd = -1
        self.memory.close()
        self._set("Created")

    def _set(self, state: str) -> None:
        self.state = state
        self._on_change()

    # -- snapshots ------------------------------------------------------------------------

    def snapshot(self, order: dict[str, Any]) -> None:
        url = _member(order, "destination_url")
        doing = "The VM could not be snapshotted"
        self._require_machine(doing)
        self._emit("vm", "snapshotting")
        if self.state != "Paused":
            component = "Failed to snapshot migratable component"
            text = "Trying to snapshot while VM is running"
            raise ApiError(doing, "Cannot snapshot VM", component, text)
        self._emit("vm", "snapshotted")
        try:
            self._send(_directory(url))
        except OSError as exc:
            steps = "Cannot send VM snapshot", _MIGRATE_SEND, os_error(exc)
            raise ApiError(doing, *steps) from exc
        except ApiError as exc:
            raise ApiError(doing, "Cannot send VM snapshot", *exc.chain) from exc

    def _send(self, directory: Path) -> None:
        """In this order, each file made anew; what was written stays when a later one fails."""
        assert self.config is not None
        state = json.dumps(self._state()).encode()
        if "half_state" in self.faults:  # one write(2), which may be cut short
            state = state[: len(state) // 2]
        _make(directory / "config.json", json.dumps(self.config).encode())
        _make(directory / "state.json", state)
        if "no_memory_file" in self.faults:
            return
        self.memory.save(directory / "memory-ranges", is_sparse=self.version >= (52, 0))
        if "short_memory" in self.faults:
            path = directory / "memory-ranges"
            os.truncate(path, path.stat().st_size - 4096)
        if "linked_memory" in self.faults:
            os.rename(directory / "memory-ranges", directory / "elsewhere")
            os.symlink("elsewhere", directory / "memory-ranges")

    def _state(self) -> dict[str, Any]:
        vm = {"clock": None, "common_cpuid": self.settings.get("cpuid", CPUID)}
        return {
            "snapshots": {
                "cpu-manager": {"snapshots": {}, "snapshot_data": None},
                "device-manager": {"snapshots": {}, "snapshot_data": {"state": "{}"}},
                "memory-manager": {
                    "snapshots": {},
                    "snapshot_data": {"state": self.memory.state()},
                },
            },
            "snapshot_data": {"state": json.dumps(vm)},
        }

    def restore(self, order: dict[str, Any], *, fds: int = 0) -> None:
        """Only without any machine; a failure leaves the monitor as it was."""
        doing = "The VM could not be restored"
        url = _member(order, "source_url")
        mode = self._mode(order)
        if fds != sum(net.get("num_fds", 0) for net in order.get("net_fds") or ()):
            raise ApiError("Bad Request", kind="request")
        if self.config is not None:
            raise ApiError(doing, "VM is already created")
        try:
            directory = _directory(url)
            config = self._load(directory / "config.json", "VM config")
            if order.get("prefault") and mode == "OnDemand":
                reason = "'prefault' cannot be combined with 'memory_restore_mode=ondemand'"
                raise ApiError(doing, "Failed to validate config", reason, kind="validation")
            state = self._load(directory / "state.json", "VM state")
            self._check_cpu(state)
        except ApiError as exc:
            if exc.chain[0] == doing:
                raise
            raise ApiError(doing, "Cannot restore VM", *exc.chain) from exc
        self._restore(doing, config, state, directory, mode)
        if order.get("resume") and self.version >= (52, 0):
            self.resume()

    def _mode(self, order: dict[str, Any]) -> str:
        """A version that knows no modes ignores the member; one that does refuses other words."""
        mode = order.get("memory_restore_mode", "Copy")
        if self.version < (52, 0):
            return "Copy"
        known = ["Copy", "OnDemand"]
        if self.version >= (54, 0) and "no_copy_on_write" not in self.faults:
            known.append("CopyOnWrite")
        if mode not in known:
            words = " or ".join(f"`{one}`" for one in known)
            reason = f"unknown variant `{mode}`, expected {words} at line 1 column 78"
            raise ApiError("Failed to deserialize JSON", reason, kind="request")
        return mode

    def _restore(
        self,
        doing: str,
        config: dict[str, Any],
        state: dict[str, Any],
        directory: Path,
        mode: str,
    ) -> None:
        self.config = _complete(config)
        try:
            self._open_console(doing)
            self._emit("vm", "restoring")
            self._fill(state, directory / "memory-ranges", mode)
            payload = config.get("payload") or {}
            if not payload.get("kernel"):
                raise ApiError(*_INVALID, "No bootitem provided: neither firmware nor kernel")
            self._read_payload(payload.get("initramfs"), "initramfs", doing)
            self._bind_channel(doing)
            self._set("Paused")
            self._emit("vm", "restored")
        except ApiError as exc:
            self.delete()
            chain = exc.chain if exc.chain[0] == doing else [doing, *exc.chain]
            raise ApiError(*chain, kind=exc.kind) from exc

    def _fill(self, state: dict[str, Any], source: Path, mode: str) -> None:
        if mode == "OnDemand" and "no_userfaultfd" in self.faults:
            raise ApiError(
                "Memory manager error",
                "Failed to create userfaultfd",
                "Operation not permitted (os error 1)",
            )
        if mode == "CopyOnWrite" and ("degraded" in self.faults or not self._is_plain()):
            mode = "Copy"  # with a line in its log
        text = state["snapshots"]["memory-manager"]["snapshot_data"]["state"]
        try:
            self.memory.restore(json.loads(text), self._zones(), source, mode)
        except ApiError as exc:
            raise ApiError("Memory manager error", *exc.chain) from exc

    def _is_plain(self) -> bool:
        return not any(zone.get("shared") or zone.get("file") for zone in self._zones())

    def _load(self, path: Path, what: str) -> dict[str, Any]:
        steps: tuple[str, ...] = (_MIGRATE_RECEIVE,)
        if self.version >= (53, 0):
            steps += (f'Error opening {what} snapshot file "{path}"',)
        try:
            loaded: dict[str, Any] = json.loads(path.read_bytes())
        except OSError as exc:
            raise ApiError(*steps, os_error(exc)) from exc
        except ValueError as exc:
            steps = _MIGRATE_RECEIVE, f"Error deserialising {what} snapshot"
            raise ApiError(*steps, "EOF while parsing a value") from exc
        return loaded

    def _check_cpu(self, state: dict[str, Any]) -> None:
        saved = json.loads(state["snapshot_data"]["state"])["common_cpuid"]
        if saved != self.settings.get("cpuid", CPUID):
            raise ApiError(
                _MIGRATE_RECEIVE,
                "Error checking cpu feature compatibility",
                "Error checking CPUID compatibility",
            )

    @staticmethod
    def _require_config(config: dict[str, Any]) -> None:
        for section, member in (("cpus", "boot_vcpus"), ("memory", "size"), ("vsock", "cid")):
            if config.get(section) is not None and member not in config[section]:
                raise _missing(member)


_INVALID = ("Failed to validate config", "Payload configuration is not bootable")


def _complete(config: dict[str, Any]) -> dict[str, Any]:
    """With what a machine has that was not asked for; members that are not known are dropped."""
    known = ("cpus", "memory", "payload", "disks", "net", "rng", "serial", "console", "vsock")
    kept = {name: config[name] for name in known if config.get(name) is not None}
    defaults = {
        "cpus": {"boot_vcpus": 1, "max_vcpus": 1},
        "memory": {"size": 512 << 20, "shared": False, "thp": True},
        "rng": {"src": "/dev/urandom"},
        "serial": {"mode": "Null"},
        "console": {"mode": "Tty"},
        "debug_console": {"mode": "Off", "iobase": 233},
        "watchdog": False,
    }
    return {**defaults, **kept}


def _directory(url: str) -> Path:
    if not url.startswith("file://"):
        raise ApiError(_MIGRATE_SEND, f"Could not extract path from URL: {url}")
    path = Path(url.removeprefix("file://"))
    if not path.is_dir():
        raise ApiError(_MIGRATE_SEND, f'Destination is not a directory: "{path}"')
    return path


def _make(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def _listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        listener.listen(128)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _member(order: dict[str, Any], name: str) -> str:
    if name not in order:
        raise _missing(name)
    value: str = order[name]
    return value


def _missing(name: str) -> ApiError:
    reason = f"missing field `{name}` at line 1 column 2"
    return ApiError("Failed to deserialize JSON", reason, kind="request")
