"""Define the messages exchanged with the runtime inside a VM (docs/guest-protocol.md, 3 and 4).

What a guest sends is input from whoever has taken it over: types are strict, unknown members are
ignored as the protocol demands, sizes are bounded by the message limit before decoding.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Annotated, Any, Final, TypeVar

import msgspec

from agentd.units import MIB
from agentd.wire.api import Entry

MESSAGE_MAX_BYTES: Final = 4 * MIB

_Count = Annotated[int, msgspec.Meta(ge=0)]
_T = TypeVar("_T")


class _FromGuest(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what a guest sends."""


class _ToGuest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of what we send."""


class Reset(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of a RESET frame, in both directions."""

    code: str
    message: str = ""


class Failed(_FromGuest, frozen=True, tag="failed"):
    """A request that could not be served."""

    code: str
    message: str = ""


class Done(_FromGuest, frozen=True, tag="done"):
    """A request that was served. size: bytes written, for `put`."""

    size: _Count = 0


# -- status -----------------------------------------------------------------------------------


class GuestDetails(_FromGuest, frozen=True, rename="camel"):
    """What the interpreter is up to."""

    interpreter_state: str
    workspace_empty: bool
    preloaded_packages: list[str] = []


class Reason(_FromGuest, frozen=True):
    """One thing that speaks against a snapshot."""

    kind: str
    detail: str = ""


class GuestProcess(_FromGuest, frozen=True):
    """One process of the guest."""

    pid: Annotated[int, msgspec.Meta(ge=1)]
    ppid: _Count
    name: str
    cmdline: str
    threads: Annotated[int, msgspec.Meta(ge=1)]


class GuestRuntime(_FromGuest, frozen=True):
    """Versions of what runs in the guest."""

    version: str = ""
    python: str = ""
    kernel: str = ""


class GuestStatus(_FromGuest, frozen=True):
    """What a guest says about itself; a claim, not a proof."""

    checkpoint: str
    safe_to_snapshot: bool = msgspec.field(name="safeToSnapshot")
    user_state_loaded: bool = msgspec.field(name="userStateLoaded")
    active_tasks: int = msgspec.field(name="activeTasks")
    details: GuestDetails
    gate: str
    reasons: list[Reason]
    processes: list[GuestProcess]
    baseline_processes: list[GuestProcess]
    runtime: GuestRuntime = GuestRuntime()


# -- execute ----------------------------------------------------------------------------------


class ExecuteRequest(_ToGuest, frozen=True, omit_defaults=False):
    """Run code. timeout_s: wall time, None is none; limits in bytes."""

    execution_id: str
    code: str
    timeout_s: float | None
    max_output_bytes: int
    max_result_bytes: int
    env: dict[str, str] = {}


class Stdout(_FromGuest, frozen=True, tag="stdout"):
    """A piece of standard output."""

    text: str


class Stderr(_FromGuest, frozen=True, tag="stderr"):
    """A piece of standard error."""

    text: str


class Result(_FromGuest, frozen=True, tag="result"):
    """A value in its representations by MIME type; `main` marks the last expression's."""

    data: dict[str, str]
    main: bool = False


class Raised(_FromGuest, frozen=True, tag="error"):
    """An exception that user code did not catch."""

    name: str
    value: str
    traceback: list[str]


class End(_FromGuest, frozen=True, tag="end"):
    """The outcome; nothing follows."""

    status: str
    detail: str = ""
    execution_count: _Count = 0
    duration_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    namespace_lost: bool = False


ExecutionEvent = Stdout | Stderr | Result | Raised | End


# -- files, signal, checkpoint ----------------------------------------------------------------


class FileHeader(_FromGuest, frozen=True, tag="file"):
    """The size in bytes of the file whose content follows."""

    size: _Count


class EntryList(_FromGuest, frozen=True, tag="entries"):
    """What a directory holds."""

    entries: list[Entry]


class EntryReply(_FromGuest, frozen=True, tag="entry"):
    """One file or directory."""

    entry: Entry


class Operation(_ToGuest, frozen=True):
    """A request of `signal` or `checkpoint`."""

    op: str


# -- decoding ---------------------------------------------------------------------------------

_DECODERS: Final[dict[object, msgspec.json.Decoder[Any]]] = {}


def decode(body: bytes, kind: type[_T]) -> _T:
    """The message in `body`.

    Python text may hold lone surrogates, which JSON carries as escapes; they become `?` here, so
    that what we hand on is valid Unicode.
    Raises: ValueError when it is not UTF-8 JSON of that type, or is nested too deeply.
    """
    value: _T = _decode(body, kind)
    return value


def decode_event(body: bytes) -> ExecutionEvent | Failed:
    """A message of an execution. Raises: ValueError, as `decode`."""
    event: ExecutionEvent | Failed = _decode(body, ExecutionEvent | Failed)
    return event


def decode_reply(body: bytes, kind: type[_T]) -> _T | Failed:
    """The message of that type, or the refusal, in `body`. Raises: ValueError, as `decode`."""
    try:
        return decode(body, kind)
    except ValueError:
        with suppress(ValueError):
            return decode(body, Failed)
        raise


def _decode(body: bytes, kind: Any) -> Any:
    decoder = _DECODERS.get(kind)
    if decoder is None:
        decoder = _DECODERS[kind] = msgspec.json.Decoder(kind)
    try:
        try:
            return decoder.decode(body)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            return decoder.decode(_without_surrogates(body))
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as exc:
        raise ValueError(f"{exc} (a message of {len(body)} bytes)") from exc


def _without_surrogates(body: bytes) -> bytes:
    """The same JSON with `?` for each lone surrogate."""
    try:
        text = json.dumps(json.loads(body), ensure_ascii=False)
    except ValueError as exc:
        raise msgspec.DecodeError(str(exc)) from exc
    return text.encode("utf-8", "replace")
