"""Make what machines start from: an image on a disk, the same in a memfd, a working set."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd.wire.pager import Listen

from .pager import PagerHost
from .programs import Programs
from .standin import MachineOrder, StandIn

PAGES: Final = 3072
PAGE_BYTES: Final = 4096
# Regions of different sizes, none a multiple of what is read ahead at once.
REGION_PAGES: Final = (1000, 1565, 507)
REGIONS: Final = ",".join(str(pages * PAGE_BYTES) for pages in REGION_PAGES)
_ZERO_SHARE: Final = 0.4
_BUDGET_PAGES: Final = 700
_RECORDED_TOUCHES: Final = 400
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@dataclass
class Images:
    """memfd: owned. working_set: empty until `record`."""

    path: Path
    digest: str
    memfd: int
    working_set: str = ""

    @property
    def memfd_path(self) -> Path:
        """For processes that we start."""
        return Path(f"/proc/{os.getpid()}/fd/{self.memfd}")

    def close(self) -> None:
        os.close(self.memfd)

    def kept(self) -> Counter[str]:
        """What a page server may keep open for a while after the last machine: for each template,
        told by its image, digest (Kuasar says none) and working set, the files of it.
        """
        memfd = os.readlink(self.memfd_path)
        return Counter({str(self.path): 3, memfd: 2, self.working_set: 2})

    def evict(self) -> None:
        """Have what is on disk leave the page cache; pages that somebody maps stay."""
        files = [self.path, Path(self.working_set)] if self.working_set else [self.path]
        for path in files:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)


def make_images(programs: Programs, directory: Path, seed: int) -> Images:
    """Whoever calls has to close what is returned."""
    path = directory / "image"
    _write_image(programs, path, seed)
    memfd = os.memfd_create("torture-image", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    images = Images(path, hashlib.sha256(path.read_bytes()).hexdigest(), memfd)
    _write_image(programs, images.memfd_path, seed)
    fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, _SEALS)
    return images


def _write_image(programs: Programs, path: Path, seed: int) -> None:
    command = [str(programs.image), "--seed", str(seed), "--pages", str(PAGES)]
    subprocess.run([*command, "--zero-share", str(_ZERO_SHARE), str(path)], check=True)


async def record(programs: Programs, host: PagerHost, images: Images, seed: int) -> None:
    """Have a machine recorded, and make a working set of it."""
    work_dir = host.files.work_dir
    record_file, set_file = work_dir / "record", work_dir / "working-set"
    socket = work_dir / "recorded.sock"
    await host.client.listen(
        Listen(
            vm="recorded", socket=str(socket), protocol="firecracker", image=str(images.path),
            digest=images.digest, record=str(record_file),
        )
    )  # fmt: skip
    order = MachineOrder(socket, "firecracker", images.path, REGIONS, seed)
    async with await StandIn.start(
        programs.machine, order, log_file=work_dir / "recorded.log", mark=str(work_dir)
    ) as machine:
        for command in ("map", "connect"):
            await machine.say(command)
        await host.client.wait("recorded", deadline_s=10)
        await machine.say(f"random {_RECORDED_TOUCHES}")
        await host.client.end_recording("recorded", deadline_s=30)
    await host.client.forget("recorded")
    _make_working_set(programs, images, record_file, set_file)
    images.working_set = str(set_file)


def _make_working_set(
    programs: Programs, images: Images, record_file: Path, set_file: Path
) -> None:
    command = [
        str(programs.pager), "working-set", "--image", str(images.path), "--digest", images.digest,
        "--out", str(set_file), "--budget-pages", str(_BUDGET_PAGES), str(record_file),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
