"""Define the messages of the page server's control protocol (docs/memory.md)."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

# The reason of a machine that was not stopped: its process ended by itself or was ended.
PROCESS_ENDED: Final = "its process ended"

# How a monitor hands its memory over, as an order may name it.
HandOver = Literal["firecracker", "memfd"]


class _Order(msgspec.Struct, frozen=True, tag_field="op", forbid_unknown_fields=True):
    """Base of what is asked for: one JSON object a line."""


class Hello(_Order, frozen=True, tag="hello"):
    """Who is there."""


class Listen(_Order, frozen=True, tag="listen"):
    """Serve a machine whose monitor is about to connect.

    vm: 1 to 127 letters, digits, `_.-`. socket: made by the page server, must not exist.
    image: what the memory is filled from; empty with memfd, where it comes with the hand-over.
    digest: of the image, 64 hex digits, lower case.
    working_set: its file, empty for none. record: where to write what this machine touches, empty
    for nowhere. uid: who may connect to the socket.
    """

    vm: str
    socket: str
    protocol: HandOver
    image: str
    digest: str
    working_set: str = ""
    record: str = ""
    uid: int = 0


class OffloadRestore(_Order, frozen=True, tag="offload_restore"):
    """Fill a Cloud Hypervisor that was told to receive a machine, and listens at socket.

    config, state: files that it is sent. demand_only: what its guest does not touch stays empty;
    needed by a record. resume: the monitor resumes the guest by itself. Others: as of Listen.
    """

    vm: str
    socket: str
    image: str
    config: str
    state: str
    digest: str
    working_set: str = ""
    record: str = ""
    uid: int = 0
    demand_only: bool = False
    resume: bool = False


class OffloadSave(_Order, frozen=True, tag="offload_save"):
    """Keep what a Cloud Hypervisor gives that is told to send its machine to socket.

    image, config, state: files that are made; none may exist.
    """

    vm: str
    socket: str
    image: str
    config: str
    state: str
    uid: int = 0


class Wait(_Order, frozen=True, tag="wait"):
    """Answer once the machine's memory is served."""

    vm: str
    timeout_s: float


class EndRecording(_Order, frozen=True, tag="end_recording"):
    """Write what a machine touched."""

    vm: str


class Forget(_Order, frozen=True, tag="forget"):
    """A machine has ended, or never came."""

    vm: str


class StatsOrder(_Order, frozen=True, tag="stats"):
    """What every machine did."""


Offload = OffloadRestore | OffloadSave
Order = Hello | Listen | OffloadRestore | OffloadSave | Wait | EndRecording | Forget | StatsOrder


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what is answered: members of a newer page server are ignored."""


class Done(_Answer, frozen=True):
    """There is nothing more to say."""


class Refusal(_Answer, frozen=True):
    """Why it was not done. error: a word for programs. message: for people."""

    error: str
    message: str = ""


class About(_Answer, frozen=True):
    """The page server itself."""

    version: str
    pid: int
    machines: int


class Serving(_Answer, frozen=True):
    """A machine whose memory is served.

    pid: of its monitor. method, why: how its memory gets there, and what decided it.
    kept_by: who else holds its userfaultfd: vmm, keeper, both; nobody of an offload, which ends
    with the page server. prefetched: pages.
    """

    vm: str
    pid: int
    method: str
    why: str
    regions: int
    pages: int
    prefetched: int
    kept_by: str


class Recording(_Answer, frozen=True):
    """What was recorded: pages touched, and of them those written to."""

    touches: int
    written: int


class MachineStats(_Answer, frozen=True):
    """One machine; counts are pages unless they say otherwise.

    working_set: pages in it. covered: share of the pages the guest asked for that were there before
    it asked, None before it asked for any. stalls: faults that took more than 10 ms.
    """

    vm: str
    protocol: str
    state: str
    pid: int = 0
    method: str = ""
    why: str = ""
    reason: str = ""
    pages: int = 0
    faults: int = 0
    prefetched: int = 0
    copied: int = 0
    shared: int = 0
    zeroed: int = 0
    removed: int = 0
    working_set: int = 0
    covered: float | None = None
    stalls: int = 0
    max_stall_us: int = 0


class StoppedMachine(_Answer, frozen=True):
    """A machine that is over: stopped by the page server, and why, or PROCESS_ENDED."""

    vm: str
    reason: str


class Stats(_Answer, frozen=True):
    """What the page server did for each machine. stopped: the last 64."""

    pid: int
    uptime_s: float
    machines: list[MachineStats] = []
    stopped: list[StoppedMachine] = []


class WorkingSetReport(_Answer, frozen=True):
    """What `snap-pager working-set` made. precision, recall: None for one record."""

    pages: int
    runs: int
    data_bytes: int
    dropped_pages: int
    precision: float | None
    recall: float | None
