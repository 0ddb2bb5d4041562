"""One template's state."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from agentd.engine.journal_records import (
    TemplateBegun,
    TemplateFailed,
)
from agentd.errors import ErrorCode, PermanentError, SnapStartError, TransientError
from agentd.store.loaded import LoadedTemplate
from agentd.store.templates import BrokenTemplate, StoredTemplate
from agentd.wire.api import TemplateState
from agentd.wire.manifest import Machine, SnapshotFacts


@dataclass(eq=False)
class Template:
    """A template. build_id: empty if it was built under a predecessor. memory: once it was used.

    loading: while somebody reads it from disk. building: while it is built. digesting: while its
    SHA-256 is recorded. snapshot: of a cluster, for which it was made.
    """

    name: str
    state: TemplateState
    image: str
    machine: Machine
    created_at: str
    build_id: str = ""
    stage: str = ""
    progress: float = 0.0
    size_bytes: int = 0
    stages_ms: Mapping[str, float] = field(default_factory=dict)
    error: SnapStartError | None = None
    memory: LoadedTemplate | None = None
    loading: asyncio.Task[LoadedTemplate] | None = None
    building: asyncio.Task[None] | None = None
    digesting: asyncio.Task[None] | None = None
    snapshot: SnapshotFacts | None = None

    def __repr__(self) -> str:
        return f"<Template {self.name} {self.state.value} {self.stage}>"


def from_store(stored: StoredTemplate) -> Template:
    """A template that is sealed."""
    manifest = stored.manifest
    return Template(
        name=manifest.name,
        state=TemplateState.READY,
        image=manifest.image.key,
        machine=manifest.machine,
        created_at=manifest.created_at,
        stage="ready",
        progress=1.0,
        size_bytes=stored.disk_bytes,
        snapshot=manifest.snapshot,
    )


def from_broken(broken: BrokenTemplate) -> Template:
    """Something in the store that cannot be served; it can be looked at, removed."""
    return Template(
        name=broken.name,
        state=TemplateState.FAILED,
        image="",
        machine=Machine(0, 0),
        created_at="",
        error=broken.error,
    )


def from_begun(begun: TemplateBegun) -> Template:
    """A template as it was when its build began."""
    return Template(
        name=begun.name,
        state=TemplateState.BUILDING,
        image=begun.image,
        machine=Machine(begun.memory_mib, begun.vcpus),
        created_at=rfc3339(begun.created_at_s),
        build_id=begun.build_id,
    )


def from_failed(begun: TemplateBegun, failed: TemplateFailed) -> Template:
    """A template whose build failed under a predecessor."""
    template = from_begun(begun)
    template.state = TemplateState.FAILED
    template.error = PermanentError(ErrorCode(failed.code), failed.message, hint=failed.hint)
    return template


def died(name: str) -> PermanentError:
    """For a build whose daemon died."""
    return PermanentError(
        ErrorCode.TEMPLATE_BUILD_FAILED,
        f"building template {name!r}: agentd ended before the template was sealed",
        hint="remove it, build it again",
    )


def too_slow(template: Template) -> TransientError:
    """For a build of which a stage did not end in time."""
    return TransientError(
        ErrorCode.DEADLINE_EXCEEDED,
        f"building template {template.name!r}: stage {template.stage!r} took too long",
        hint="raise that stage's time in the daemon's deadlines",
    )


def stopped(template: Template) -> TransientError:
    """For a build that was cancelled."""
    return TransientError(
        ErrorCode.SHUTTING_DOWN,
        f"building template {template.name!r}: it was stopped in stage {template.stage!r}",
        hint="remove it, build it again",
    )


def incompatible(name: str, reasons: list[str]) -> PermanentError:
    """For a template of another monitor."""
    return PermanentError(
        ErrorCode.TEMPLATE_INCOMPATIBLE,
        f"using template {name!r} with this node's monitor: {'; '.join(reasons)}",
        hint="remove the template, build it again on this node",
    )


def rfc3339(seconds: float) -> str:
    """Seconds since the epoch as text in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
