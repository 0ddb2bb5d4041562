"""Say what a successor has to know of a daemon's machines, templates."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from agentd.wire.api import SessionMode


class Role(enum.StrEnum):
    """What a machine is for."""

    SESSION = "session"
    PARKED = "parked"
    BUILD = "build"


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """Base of what a journal line holds."""


class Opened(_Line, frozen=True, tag="opened"):
    """A daemon took the journal over. boot_id: of the kernel, /proc/sys/kernel/random/boot_id."""

    boot_id: str


class VmIntended(_Line, frozen=True, tag="vm_intended"):
    """A machine is about to be started."""

    vm_id: str
    role: Role
    run_dir: str


class SessionFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a successor has to know of a session. Times: seconds since the epoch.

    Its environment is not in here: the guest has it, and it may hold secrets.
    memory_mib: of a machine that was booted from an image without a template. labels: of whoever
    started it within this program. ends_clock_s: its end by CLOCK_MONOTONIC, which goes on over the
    daemon's death and which nobody sets; it decides, `expires_at_s` is for people.
    """

    template: str
    mode: SessionMode
    created_at_s: float
    expires_at_s: float
    idle_timeout_s: float
    hostname: str
    metadata: dict[str, str] = {}
    stages_ms: dict[str, float] = {}
    memory_mib: int = 0
    labels: dict[str, str] = {}
    ends_clock_s: float = 0.0


class VmRunning(_Line, frozen=True, tag="vm_running"):
    """A machine runs. session: None while it is parked."""

    vm_id: str
    pid: int
    create_time_ticks: int
    session: SessionFacts | None = None


class VmEnding(_Line, frozen=True, tag="vm_ending"):
    """A machine is about to be ended."""

    vm_id: str
    reason: str


class VmGone(_Line, frozen=True, tag="vm_gone"):
    """A machine ended, its run directory is removed."""

    vm_id: str


class TemplateBegun(_Line, frozen=True, tag="template_begun"):
    """A template is about to be built. is_held: from a held build, whose owner hears of a failure;
    nothing is kept of it then.
    """

    name: str
    build_id: str
    image: str
    memory_mib: int
    vcpus: int
    created_at_s: float
    is_held: bool = False


class TemplateFailed(_Line, frozen=True, tag="template_failed"):
    """A build failed; kept until somebody removes it."""

    name: str
    code: str
    message: str
    hint: str


class TemplateSettled(_Line, frozen=True, tag="template_settled"):
    """A template is sealed, or gone: the store alone knows it from here on."""

    name: str


Record = (
    Opened
    | VmIntended
    | VmRunning
    | VmEnding
    | VmGone
    | TemplateBegun
    | TemplateFailed
    | TemplateSettled
)


@dataclass(frozen=True)
class VmEntry:
    """What the journal knows of one machine. running: None before it was up."""

    intended: VmIntended
    running: VmRunning | None = None
    ending: VmEnding | None = None


@dataclass(frozen=True)
class TemplateEntry:
    """What the journal knows of a template that is not in the store."""

    begun: TemplateBegun
    failed: TemplateFailed | None = None


@dataclass(frozen=True)
class JournalState:
    """The sum of all records."""

    boot_id: str = ""
    vms: dict[str, VmEntry] = field(default_factory=dict)
    templates: dict[str, TemplateEntry] = field(default_factory=dict)


def replay(records: Iterable[Record]) -> JournalState:
    """Fold records into a state; records about things that are gone change nothing."""
    state = JournalState()
    for record in records:
        state = apply(state, record)
    return state


def apply(state: JournalState, record: Record) -> JournalState:
    """The state after one more record. The given state's dictionaries are updated in place."""
    match record:
        case Opened():
            return JournalState(record.boot_id, state.vms, state.templates)
        case VmIntended() | VmRunning() | VmEnding() | VmGone():
            _apply_vm(state.vms, record)
        case TemplateBegun() | TemplateFailed() | TemplateSettled():
            _apply_template(state.templates, record)
    return state


def records_of(state: JournalState) -> list[Record]:
    """The shortest journal that replays to the state."""
    records: list[Record] = [Opened(state.boot_id)]
    for vm in state.vms.values():
        records += [part for part in (vm.intended, vm.running, vm.ending) if part is not None]
    for template in state.templates.values():
        records += [part for part in (template.begun, template.failed) if part is not None]
    return records


def _apply_vm(vms: dict[str, VmEntry], record: VmIntended | VmRunning | VmEnding | VmGone) -> None:
    if isinstance(record, VmIntended):
        vms[record.vm_id] = VmEntry(record)
    elif isinstance(record, VmGone):
        vms.pop(record.vm_id, None)
    elif (entry := vms.get(record.vm_id)) is None:
        return
    elif isinstance(record, VmRunning):
        vms[record.vm_id] = VmEntry(entry.intended, record, entry.ending)
    else:
        vms[record.vm_id] = VmEntry(entry.intended, entry.running, record)


def _apply_template(
    templates: dict[str, TemplateEntry], record: TemplateBegun | TemplateFailed | TemplateSettled
) -> None:
    if isinstance(record, TemplateBegun):
        templates[record.name] = TemplateEntry(record)
    elif isinstance(record, TemplateSettled):
        templates.pop(record.name, None)
    elif (entry := templates.get(record.name)) is not None:
        templates[record.name] = TemplateEntry(entry.begun, record)
