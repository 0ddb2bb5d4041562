"""Stand where a machine has no monitor of ours, because something else runs its Pods."""

from __future__ import annotations

from typing import NoReturn

from agentd.errors import ConfigError
from agentd.store.loaded import LoadedTemplate
from agentd.vmm.vmm import BootSpec, Checkpoint, ForkSpec, Started, Vm, VmRecord
from agentd.wire.manifest import Machine, VmmFacts


class AbsentVmm:
    """Implements `agentd.vmm.vmm.Vmm`: there is no machine, and every order for one is refused.

    Args: why: the refusal.
    """

    def __init__(self, why: ConfigError) -> None:
        self._why = why

    def facts(self, machine: Machine) -> VmmFacts:
        """Nothing that a template could have been made by."""
        return VmmFacts(
            engine="none",
            version="",
            accel="none",
            machine_type="",
            cpu="",
            device_argv=(),
            host_cpu="",
            host_tsc_khz=0,
        )

    def check(self) -> None:
        """Raises: ConfigError."""
        self._refuse()

    async def boot(self, spec: BootSpec) -> Vm:
        """Raises: ConfigError."""
        self._refuse()

    async def boot_session(self, spec: BootSpec, prepare: bytes, *, deadline_s: float) -> Started:
        """Raises: ConfigError."""
        self._refuse()

    async def checkpoint(self, vm: Vm, *, deadline_s: float) -> Checkpoint:
        """Raises: ConfigError."""
        self._refuse()

    async def fork(self, template: LoadedTemplate, spec: ForkSpec, *, deadline_s: float) -> Started:
        """Raises: ConfigError."""
        self._refuse()

    def adopt(self, record: VmRecord) -> Vm | None:
        """None: whatever ran under a monitor that is gone cannot be taken over."""
        return None

    def find_all(self) -> list[VmRecord]:
        """None of them."""
        return []

    def forget(self, vm_id: str) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing is held."""

    def _refuse(self) -> NoReturn:
        why = self._why
        raise ConfigError(why.code, why.message, hint=why.hint)
