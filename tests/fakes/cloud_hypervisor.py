"""A Cloud Hypervisor whose machines are processes with a fake guest; see the modules beside.

The driver starts it as it starts the real program: with the name of a machine in the place of the
program's. An interpreter cannot be started so, hence a launcher in C.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentd.vmm.cgroup import CgroupTree
from agentd.vmm.cloud_hypervisor import CloudHypervisor, CloudHypervisorSettings
from agentd.vmm.paging import Paging

_PROGRAM = Path(__file__).with_name("cloud_hypervisor_process.py")
_LAUNCHER = r"""
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
        char here[4096], *words[256];
        ssize_t length = readlink("/proc/self/exe", here, sizeof(here) - 1);
        int n = 0;
        if (length < 0 || argc > 200)
                return 127;
        here[length] = '\0';
        *strrchr(here, '/') = '\0';
        setenv("PYTHONHOME", HOME, 1);
        setenv("PYTHONDONTWRITEBYTECODE", "1", 1);
        words[n++] = argv[0];
        words[n++] = "-S";
        words[n++] = PROGRAM;
        words[n++] = here;
        for (int i = 1; i < argc; i++)
                words[n++] = argv[i];
        words[n] = NULL;
        execv(PYTHON, words);
        return 127;
}
"""


def build_launcher(directory: Path) -> Path:
    """Compile the program that looks like a Cloud Hypervisor; returns its path."""
    source, program = directory / "launcher.c", directory / "cloud-hypervisor"
    source.write_text(_LAUNCHER)
    python = Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}")
    words = {"HOME": sys.base_prefix, "PROGRAM": str(_PROGRAM), "PYTHON": str(python)}
    defines = [f'-D{name}="{value}"' for name, value in words.items()]
    subprocess.run(["cc", "-O1", *defines, "-o", program, source], check=True)
    return program


class StandIn:
    """One such program, in a directory of its own. launcher: of `build_launcher`."""

    def __init__(self, launcher: Path, directory: Path, version: str = "v53.0") -> None:
        directory.mkdir(exist_ok=True)
        self.binary = directory / "cloud-hypervisor"
        self.binary.hardlink_to(launcher)
        self.version = version
        self._settings: dict[str, Any] = {}
        self.set()

    def set(self, faults: Iterable[str] = (), **settings: Any) -> None:
        """What goes wrong in monitors that start from here on, what they are like."""
        self._settings = {"version": self.version, "faults": [*faults], **settings}
        path = self.binary.with_name("stand-in.json")
        path.write_text(json.dumps(self._settings))

    def driver(
        self,
        vms_dir: Path,
        installation: str,
        cgroups: CgroupTree | None = None,
        paging: Paging | None = None,
        **settings: Any,
    ) -> CloudHypervisor:
        """The product's driver of it."""
        usual = CloudHypervisorSettings(
            binary=str(self.binary),
            version=self.version,
            host_cpu="some CPU",
            host_tsc_khz=0,
            installation=installation,
            vms_dir=vms_dir,
            user_of=lambda _vm_id: None,
        )
        wish = replace(usual, **settings)
        return CloudHypervisor(wish, cgroups or CgroupTree(None), paging=paging)
