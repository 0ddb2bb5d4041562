"""One machine of the Firecracker stand-in: what its monitor does with it, as faults, files.

What is refused with which words was read off v1.16.1. Imports nothing of the product: it runs in a
process of its own.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import zlib
from collections.abc import Callable
from typing import Any

from firecracker_memory import FaultError, Memory, os_error  # type: ignore[import-not-found]

Version = tuple[int, int, int]

FORMATS = {8: 2, 9: 3, 10: 4, 11: 5, 12: 6, 13: 8, 14: 8, 15: 9, 16: 10, 17: 11}
_PRE = "The requested operation is not supported before starting the microVM."
_POST = "The requested operation is not supported after starting the microVM."
_RESTORE = "Load snapshot error: Failed to restore from snapshot: "
_STATE = f"{_RESTORE}Failed to get snapshot state from file: "
_MAGIC = 0x0710198486640000


class FatalError(FaultError):
    """Refused, and this process has had its use: it answers, then ends."""


class Vmm:
    """A monitor without a machine, or with one. settings: of the stand-in: version, words for what
    goes wrong, what its host's CPU can do.
    """

    def __init__(self, version: Version, settings: dict[str, Any], on_change: Callable[[], None]):
        self.version = version
        self.settings = settings
        self.faults = frozenset(settings.get("faults", ()))
        self.state = "Not started"
        self.memory = Memory()
        self.channel: socket.socket | None = None
        self.machine = {"vcpu_count": 1, "mem_size_mib": 128, "smt": False}
        self.boot_source: dict[str, Any] | None = None
        self.vsock: dict[str, Any] | None = None
        self._is_configured = False
        self._on_change = on_change

    def write_console(self, data: bytes) -> None:
        """What a guest prints goes to standard output, for as long as that takes it."""
        try:
            os.write(1, data)
        except OSError as exc:
            print(f"Failed the write to serial: {exc}", file=sys.stderr)

    # -- a machine of its own -------------------------------------------------------------

    def configure(self, what: str, order: dict[str, Any]) -> None:
        if self.state != "Not started":
            raise FaultError(_POST)
        self._is_configured = True
        if what == "machine-config":
            self.machine = {**self.machine, **order}
        elif what == "boot-source":
            self._set_boot_source(order)
        else:
            self._set_vsock(order)

    def _set_boot_source(self, order: dict[str, Any]) -> None:
        for name, text in (
            ("kernel_image_path", "The kernel file cannot be opened: "),
            (
                "initrd_path",
                "The initrd file cannot be opened: ",
            ),
        ):
            if name in order:
                try:
                    with open(order[name], "rb") as file:
                        file.read(1)
                except OSError as exc:
                    raise FaultError(f"Boot source error: {text}{os_error(exc)}") from exc
        self.boot_source = order

    def _set_vsock(self, order: dict[str, Any]) -> None:
        try:
            self._bind(order["uds_path"])
        except OSError as exc:
            raise FaultError(
                "Vsock config error: Cannot create backend for vsock device: "
                f"Error binding to the host-side Unix socket: {os_error(exc)}"
            ) from exc
        self.vsock = order

    def _bind(self, path: str) -> None:
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(path)
            listener.listen(16)
        except OSError:
            listener.close()
            raise
        listener.setblocking(False)
        self.channel = listener

    def start(self) -> None:
        if self.state != "Not started":
            raise FaultError(_POST)
        if self.boot_source is None:
            raise FaultError(
                "Start microvm error: Cannot start microvm without kernel configuration."
            )
        guest = {"cmdline": self.boot_source.get("boot_args", ""), "booted": os.urandom(8).hex()}
        self.memory.boot(self.machine["mem_size_mib"] << 20, guest)
        self._set("Running")

    # -- one that runs --------------------------------------------------------------------

    def move(self, state: str) -> None:
        """PATCH /vm, as often as one likes."""
        if self.state == "Not started":
            raise FaultError(_PRE)
        self._set("Running" if state == "Resumed" else "Paused")

    def _set(self, state: str) -> None:
        self.state = state
        self._on_change()

    # -- snapshots ------------------------------------------------------------------------

    @property
    def format(self) -> str:
        return f"{FORMATS[self.version[1]]}.0.0"

    def save(self, order: dict[str, Any]) -> None:
        if self.state == "Not started":
            raise FaultError(_PRE)
        if self.state != "Paused":
            raise FaultError(
                "Create snapshot error: Cannot save the microVM state: Operation not allowed: "
                "save/restore unavailable while running"
            )
        body = {"machine": self.machine, "vsock": self.vsock, "format": self.format}
        text = json.dumps(body).encode()
        try:
            with open(order["snapshot_path"], "wb") as file:
                file.write(_MAGIC.to_bytes(8, "little") + text + _crc(text))
            self.memory.save(order["mem_file_path"])
        except OSError as exc:
            raise FaultError(
                "Create snapshot error: Cannot write memory file: Cannot dump memory: "
                f"{os_error(exc)}"
            ) from exc

    def load(self, order: dict[str, Any]) -> None:
        if self.state != "Not started":
            raise FaultError(_POST)
        if self._is_configured:
            raise FaultError(
                "Load snapshot error: Loading a microVM snapshot not allowed after configuring "
                "boot-specific resources."
            )
        try:
            self._restore(order)
        except FaultError as exc:
            raise FatalError(str(exc)) from exc
        self._set("Running" if order.get("resume_vm") else "Paused")

    def _restore(self, order: dict[str, Any]) -> None:
        saved = self._read_state(order["snapshot_path"])
        self.machine, self.vsock = saved["machine"], saved["vsock"]
        if order.get("network_overrides"):
            raise FaultError(f"{_STATE}Unknown Network Device.")
        if override := order.get("vsock_override"):
            if self.vsock is None:
                raise FaultError(f"{_STATE}Unknown Vsock Device.")
            self.vsock = {**self.vsock, "uds_path": override["uds_path"]}
        self._restore_memory(order)
        if self.vsock is not None:
            try:
                self._bind(self.vsock["uds_path"])
            except OSError as exc:
                raise FaultError(
                    f"{_RESTORE}Failed to build microVM from snapshot: Failed to restore devices: "
                    "Error restoring MMIO devices: Vsock: Virtio-vsock backend error: "
                    f"Error binding to the host-side Unix socket: {os_error(exc)}"
                ) from exc

    def _read_state(self, path: str) -> dict[str, Any]:
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as exc:
            raise FaultError(f"{_STATE}Failed to open snapshot file: {os_error(exc)}") from exc
        failed = f"{_STATE}Failed to load snapshot state from file: "
        text, crc = data[8:-8], data[-8:]
        if _crc(text) != crc:
            raise FaultError(f"{failed}CRC64 validation failed")
        saved: dict[str, Any] = json.loads(text)
        if saved["format"] != self.format:
            raise FaultError(f"{failed}Invalid data version: {saved['format']}")
        return saved

    def _restore_memory(self, order: dict[str, Any]) -> None:
        size = self.machine["mem_size_mib"] << 20
        backend = order["mem_backend"]
        path = backend["backend_path"]
        stays = self.version >= (1, 12, 0)
        try:
            if backend["backend_type"] == "File":
                self.memory.load_file(path, size)
            elif image := self.settings.get("unserved_image"):
                self.memory.pretend_uffd(path, image, size, stays=stays)
            else:
                self.memory.load_uffd(path, size, stays=stays)
        except FaultError as exc:
            kind = "file" if backend["backend_type"] == "File" else "uffd"
            text = f"{_RESTORE}Failed to load guest memory: Error creating guest memory from {kind}"
            raise FaultError(f"{text}: {exc}") from exc


def _crc(text: bytes) -> bytes:
    return zlib.crc32(text).to_bytes(8, "little")
