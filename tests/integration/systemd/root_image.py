"""Make an outer machine whose PID 1 is Debian's systemd, with our units at hand."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from agentd.image import cpio
from agentd.image.tree import Tree, file, link
from tests.integration.kvm.outer_image import INSIDE as KVM_INSIDE
from tests.integration.kvm.outer_image import PYTHON_ROOT, ROOT, OuterImage, build_outer_image
from tests.torture.programs import build_programs

INSIDE: Final = Path(__file__).parent / "inside"
PACKAGES: Final = ("coreutils", "findutils", "systemd", "util-linux")
UNITS: Final = ROOT / "systemd"
_UNIT_DIR: Final = "etc/systemd/system"
_COMMAND: Final = "#!/usr/bin/python3.11 -I\nfrom {module} import main\n\nmain()\n"
# What a machine without consoles, seats, networks has no use for.
_MASKED: Final = (
    *("getty.target", "systemd-logind.service", "systemd-networkd.service"),
    *("systemd-timesyncd.service", "systemd-resolved.service", "serial-getty@ttyS0.service"),
    *("systemd-update-utmp.service", "systemd-udevd.service", "systemd-udev-trigger.service"),
)
_CMDLINE: Final = "rdinit=/usr/lib/systemd/systemd systemd.show_status=1 systemd.log_color=0"
_BRING_UP: Final = """\
[Unit]
DefaultDependencies=no
Before=sysinit.target
After=systemd-sysusers.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/python3.11 -m tests.integration.systemd.inside.bring_up
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
"""
# Everything takes ten times as long; what is measured by the watchdog does not.
_EMULATED: Final = "[Service]\nTimeoutStartSec=15min\n"
_DRIVE: Final = """\
[Unit]
After=multi-user.target
SuccessAction=poweroff-force
FailureAction=poweroff-force
[Service]
Type=oneshot
ExecStart=/usr/bin/python3.11 -m tests.integration.systemd.inside.drive_units
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
TimeoutStartSec=infinity
"""


def build_root_image(cache_dir: Path) -> OuterImage:
    """Build it, or find what did not change.

    Args: cache_dir: keeps packages and images; made if missing.
    Raises: SnapStartError when the packages cannot be had; OSError; RuntimeError of the compiler.
    """
    base = build_outer_image(cache_dir, PACKAGES)
    initrd = cache_dir / "with-systemd.cpio"
    with initrd.open("wb") as out, base.initrd.open("rb") as packages:
        shutil.copyfileobj(packages, out, 1 << 20)
        cpio.write_archive(_own_files(), out)
    return OuterImage(base.kernel, initrd, f"{base.cmdline} {_CMDLINE}")


def _own_files() -> Tree:
    tree = Tree()
    for path in [*sorted(UNITS.iterdir()), ROOT / "docs/operator.md"]:
        tree.add(f"opt/snapstart/{path.relative_to(ROOT)}", file(path.read_bytes()))
    tree.add(f"{_UNIT_DIR}/agentd.service.d/emulated.conf", file(_EMULATED.encode()))
    for name in _MASKED:
        tree.add(f"{_UNIT_DIR}/{name}", link("/dev/null"))
    for name, text, target in (
        ("bring-up", _BRING_UP, "sysinit.target"),
        ("drive-units", _DRIVE, "multi-user.target"),
    ):
        tree.add(f"{_UNIT_DIR}/{name}.service", file(text.encode()))
        tree.add(f"{_UNIT_DIR}/{target}.wants/{name}.service", link(f"../{name}.service"))
    tree.add("etc/machine-id", file(b"0123456789abcdef0123456789abcdef\n"))
    _add_programs(tree)
    return tree


def _add_programs(tree: Tree) -> None:
    programs = build_programs()
    for name, module in (("agentd", "agentd.cli.agentd"), ("snapctl", "agentd.cli.snapctl")):
        tree.add(f"usr/bin/{name}", file(_COMMAND.format(module=module).encode(), 0o755))
    pager = (ROOT / "agentd/snap-pager").read_bytes()
    tree.add("usr/bin/snap-pager", file(pager, 0o755))
    tree.add("opt/standin_vm", file(programs.machine.read_bytes(), 0o755))
    tree.add("opt/standin_image", file(programs.image.read_bytes(), 0o755))
    for path in (KVM_INSIDE / "drive.py", *sorted(INSIDE.glob("*.py"))):
        tree.add(f"{PYTHON_ROOT}/{path.relative_to(ROOT)}", file(path.read_bytes()))
