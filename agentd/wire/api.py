"""Define the messages of the local API."""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from agentd.wire.pager import Stats


class Request(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """Base of what callers send: unknown members are refused, so that no wish is passed over; what
    is not wished for is not sent, so that an older daemon understands a newer client.
    """


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what we answer: callers ignore what they do not know."""


class SessionMode(enum.StrEnum):
    """How a session's VM starts."""

    FORK = "fork"
    COLD = "cold"


class SessionState(enum.StrEnum):
    """Where a session is in its life."""

    STARTING = "starting"
    READY = "ready"
    ENDING = "ending"
    ENDED = "ended"


class TemplateState(enum.StrEnum):
    """Where a template is in its life."""

    BUILDING = "building"
    READY = "ready"
    FAILED = "failed"
    REMOVING = "removing"


class ErrorBody(Reply, frozen=True):
    """The `error` member of a failed request."""

    code: str
    message: str
    hint: str = ""


class ErrorReply(Reply, frozen=True):
    """A failed request."""

    error: ErrorBody


class CreateTemplate(Request, frozen=True):
    """Build a template from a guest image (its directory or key)."""

    name: str
    image: str
    memory_mib: int | None = None
    vcpus: int | None = None


class CreateSession(Request, frozen=True):
    """Start a session; durations in seconds, None takes the daemon's default."""

    template: str
    mode: SessionMode = SessionMode.FORK
    ttl_s: float | None = None
    idle_timeout_s: float | None = None
    deadline_s: float | None = None
    env: dict[str, str] = {}
    files: dict[str, bytes] = {}
    metadata: dict[str, str] = {}


class Execute(Request, frozen=True):
    """Run code in a session's interpreter."""

    code: str
    timeout_s: float | None = None
    env: dict[str, str] = {}
    max_output_bytes: int | None = None
    max_result_bytes: int | None = None


class Health(Reply, frozen=True):
    """The daemon answers."""

    status: str
    version: str


class Part(Reply, frozen=True):
    """What one part of the daemon says of itself."""

    ready: bool
    detail: str


class Readiness(Reply, frozen=True):
    """Whether the daemon can do its work. status: ready or not_ready, if one part is not."""

    status: str
    parts: dict[str, Part]


class Status(Reply, frozen=True):
    """What runs here."""

    version: str
    pid: int
    uptime_s: float
    engine: str
    accel: str
    engine_version: str
    rss_bytes: int
    sessions: int
    templates: int
    limits: dict[str, float]


class Template(Reply, frozen=True):
    """One template, sealed or on its way."""

    name: str
    state: TemplateState
    stage: str = ""
    progress: float = 0.0
    image: str = ""
    memory_mib: int = 0
    vcpus: int = 0
    created_at: str = ""
    size_bytes: int = 0
    sessions: int = 0
    stages_ms: dict[str, float] = {}
    error: ErrorBody | None = None


class Templates(Reply, frozen=True):
    """Every template."""

    templates: list[Template]


class Verification(Reply, frozen=True):
    """A template on disk was read whole, and is what was sealed.

    sha256: of its memory. has_record: memory.sha256 was there to confirm it. data_bytes: of pages
    that are not zero.
    """

    name: str
    template_id: str
    sha256: str
    has_record: bool
    memory_bytes: int
    data_bytes: int
    device_state_bytes: int
    duration_s: float


class Session(Reply, frozen=True):
    """One session; times RFC 3339."""

    id: str
    template: str
    mode: SessionMode
    state: SessionState
    pid: int = 0
    created_at: str = ""
    expires_at: str = ""
    last_used_at: str = ""
    ended_reason: str = ""
    hostname: str = ""
    stages_ms: dict[str, float] = {}
    metadata: dict[str, str] = {}


class Sessions(Reply, frozen=True):
    """Every session."""

    sessions: list[Session]


class ExecutionError(Reply, frozen=True):
    """An exception that user code raised."""

    name: str
    value: str
    traceback: list[str]


class Execution(Reply, frozen=True):
    """The collected outcome of one execution."""

    execution_id: str
    status: str
    detail: str = ""
    stdout: str = ""
    stderr: str = ""
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    results: list[dict[str, Any]] = []
    text: str | None = None
    error: ExecutionError | None = None
    execution_count: int = 0
    duration_s: float = 0.0
    namespace_lost: bool = False


class Entry(Reply, frozen=True):
    """One file or directory of a workspace."""

    path: str
    kind: str
    size: int
    mtime_s: float


class Entries(Reply, frozen=True):
    """A directory's content."""

    entries: list[Entry]


class Usage(Reply, frozen=True):
    """What one session's VM uses on the host.

    private_bytes: allocated for it alone (`Anonymous` of /proc/PID/smaps_rollup).
    """

    session: str
    rss_bytes: int
    pss_bytes: int
    private_bytes: int
    cpu_s: float


class Usages(Reply, frozen=True):
    """What every session uses. pager: of the page server, None where none answers."""

    usage: list[Usage]
    agentd_rss_bytes: int
    pager: Stats | None = None
