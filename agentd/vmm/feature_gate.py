"""Name what of a host a saved guest depends on, for monitors that do not check it themselves.

Firecracker loads a state that was saved on another CPU, and only warns; what the guest then uses
and does not find crashes it later. So the monitor's facts carry this name, and a template is forked
only where it is the same (`agentd.store.compatibility`).
"""

from __future__ import annotations

import re
from typing import Final

_KERNEL: Final = re.compile(r"\d+\.\d+")


def name_host(cpu: str, kernel_release: str) -> str:
    """A host by all that decides what a guest finds in its CPU.

    Args: cpu: as `agentd.vmm.host.describe_cpu` has it, which differs when vendor, family, model,
    stepping or any feature flag does, also one that other microcode shows or hides.
    kernel_release: of uname(2). Its KVM decides which features reach a guest, and which of its
    registers are saved; patches of one release do not change that.
    """
    found = _KERNEL.match(kernel_release)
    return f"{cpu}, Linux {found.group() if found else kernel_release}"
