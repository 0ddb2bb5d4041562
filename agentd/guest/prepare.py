"""Validate what a host wants to make of this instance: the PREPARE message, the COMMIT message.

Pure: nothing here has an effect outside. Rules: docs/guest-protocol.md section 4.1.
"""

from __future__ import annotations

import base64
import binascii
import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from agentd.guest import wire
from agentd.guest.settings import KEY_VARIABLE
from agentd.guest.wire import JsonObject

PARSE_ERROR = "parse_error"
INVALID_TASK_ID = "invalid_task_id"
RESOURCE_EXHAUSTED = "resource_exhausted"

ENVIRONMENT_MAX_BYTES = 1024 * 1024
FILES_MAX_BYTES = 1024 * 1024
ENTROPY_MIN_BYTES = 32
AUTH_KEY_MAX_CHARS = 16384
_AUTH_KEY_HEAD = "-----BEGIN PUBLIC KEY-----"  # RFC 7468, section 13

_REFUSED_PREFIXES = ("LD_", "PYTHON", "SNAPSTART_")
_REFUSED_NAMES = frozenset(
    {
        "PATH",
        "IFS",
        "ENV",
        "BASH_ENV",
        "GCONV_PATH",
        "GLIBC_TUNABLES",
        KEY_VARIABLE,
        "AGENTCUBE_SESSION_GATE",
        "AGENTCUBE_SNAPSTART_BUILD",
        "AGENTCUBE_INJECT_SOCKET_PATH",
        "WARMFORK_READINESS_SOCKET",
    }
)


class RefusalError(Exception):
    """A PREPARE that is not accepted.

    Args: reason: one of the three the protocol knows. message: for people.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class Plan:
    """What one session brings: everything COMMIT will apply. Empty text means "leave as it is"."""

    task_id: str = ""
    session_id: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    workspace: str = ""
    hostname: str = ""
    machine_id: str = ""
    entropy: bytes = b""
    files: Mapping[str, bytes] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    auth_key: str = ""
    wall_clock_ns: int | None = None
    wall_clock_at_ns: int = 0

    def wall_clock_now(self, monotonic_ns: int) -> int | None:
        """The wall clock at a later moment of the monotonic clock: what comes between COMMIT and
        the setting of the clock, and the wait for a processor, must not set it back."""
        if self.wall_clock_ns is None:
            return None
        return self.wall_clock_ns + monotonic_ns - self.wall_clock_at_ns


def parse_prepare(message: JsonObject, *, workspace_root: str) -> Plan:
    """The plan that a PREPARE describes; an empty task id means autonomous and is accepted.

    Args: workspace_root: absolute path below which the workspace has to be.
    Raises: RefusalError when any member is not acceptable.
    """
    task_id = message.get("task_id", "")
    if not isinstance(task_id, str) or (task_id and not _is_id(task_id)):
        raise RefusalError(INVALID_TASK_ID, "task_id is 1 to 253 printable ASCII characters")
    context = _context(message.get("context", ""))
    workspace = _workspace(context, workspace_root)
    auth_key = _auth_key(context)
    return Plan(
        task_id=task_id,
        session_id=_matching(context, "session_id", _is_id),
        environment=_environment(message.get("env_overrides"), has_key=bool(auth_key)),
        workspace=workspace,
        hostname=_matching(context, "hostname", _is_hostname),
        machine_id=_matching(context, "machine_id", _is_machine_id),
        entropy=_entropy(context),
        files=_files(context),
        metadata=_text_map(context.get("metadata"), "context.metadata"),
        auth_key=auth_key,
    )


def parse_wall_clock(message: JsonObject, *, ready_ns: int, commit_ns: int) -> int | None:
    """The wall clock a COMMIT asks for, in ns since the epoch; None when it brings none.

    Half of the time the exchange spent on the way (total less what the host held) is added.
    Args: ready_ns, commit_ns: monotonic times of READY written and COMMIT read.
    Raises: RefusalError when the members are not positive integers.
    """
    wall_ns = _count(message, "wall_clock_ns")
    held_ns = _count(message, "held_ns")
    if wall_ns is None or held_ns is None:
        return wall_ns
    return wall_ns + max(0, commit_ns - ready_ns - held_ns) // 2


def _count(message: JsonObject, name: str) -> int | None:
    value = message.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise RefusalError(PARSE_ERROR, f"{name} is not a whole number that fits 63 bits")
    return value


def _context(text: object) -> JsonObject:
    if not isinstance(text, str):
        raise RefusalError(PARSE_ERROR, "context is not text")
    if not text:
        return {}
    try:
        return wire.decode_json(text.encode("utf-8", "surrogatepass"))
    except wire.WireError as exc:
        raise RefusalError(PARSE_ERROR, f"context: {exc}") from exc


def _text(context: JsonObject, name: str) -> str:
    value = context.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RefusalError(PARSE_ERROR, f"context.{name} is not text")
    return value


# By methods of str: a regular expression's first match after a restore costs milliseconds of
# emulation, and these say the same.
def _is_id(text: str) -> bool:
    """1 to 253 printable ASCII characters without blanks."""
    return 0 < len(text) <= 253 and text.isascii() and text.isprintable() and " " not in text


def _is_variable(text: str) -> bool:
    return len(text) <= 128 and text.isascii() and text.isidentifier()


def _is_machine_id(text: str) -> bool:
    return len(text) == 32 and not text.strip("0123456789abcdef")


def _is_hostname(text: str) -> bool:
    return len(text) <= 64 and text.isascii() and all(map(_is_label, text.split(".")))


def _is_label(text: str) -> bool:
    """RFC 1123 section 2.1, of ASCII text."""
    return len(text) < 64 and text.strip("-") == text and text.replace("-", "").isalnum()


def _matching(context: JsonObject, name: str, matches: Callable[[str], bool]) -> str:
    value = _text(context, name)
    if value and not matches(value):
        raise RefusalError(PARSE_ERROR, f"context.{name} {value[:80]!r} has a wrong form")
    return value


def _workspace(context: JsonObject, root: str) -> str:
    path = _text(context, "workspace")
    if not path:
        return ""
    if not is_within(path, root) or "\0" in path:
        raise RefusalError(PARSE_ERROR, f"context.workspace {path[:200]!r} is not inside {root!r}")
    return posixpath.normpath(path)


def is_within(path: str, root: str) -> bool:
    """`path` is absolute, free of '..', and `root` or below it, by its text."""
    if not path.startswith("/") or ".." in path.split("/"):
        return False
    normal = posixpath.normpath(path)
    return normal == root or normal.startswith(root.rstrip("/") + "/")


def _auth_key(context: JsonObject) -> str:
    key = _text(context, "auth_public_key").strip()
    if len(key) > AUTH_KEY_MAX_CHARS:
        raise RefusalError(
            PARSE_ERROR,
            f"context.auth_public_key has {len(key)} of {AUTH_KEY_MAX_CHARS} characters",
        )
    if "auth_public_key" in context and not key.startswith(_AUTH_KEY_HEAD):
        raise RefusalError(PARSE_ERROR, f"context.auth_public_key is no PEM {_AUTH_KEY_HEAD!r}")
    return key


def _bytes(text: object, what: str) -> bytes:
    if not isinstance(text, str):
        raise RefusalError(PARSE_ERROR, f"{what} is not text")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise RefusalError(PARSE_ERROR, f"{what} is not base64: {exc}") from exc


def _entropy(context: JsonObject) -> bytes:
    value = context.get("entropy")
    if value is None:
        return b""
    seed = _bytes(value, "context.entropy")
    if len(seed) < ENTROPY_MIN_BYTES:
        raise RefusalError(
            PARSE_ERROR, f"context.entropy has {len(seed)} bytes of {ENTROPY_MIN_BYTES}"
        )
    return seed


def _files(context: JsonObject) -> dict[str, bytes]:
    value = context.get("files")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RefusalError(PARSE_ERROR, "context.files is not an object")
    files: dict[str, bytes] = {}
    total = 0
    for path, text in value.items():
        files[_relative(path)] = body = _bytes(text, f"context.files[{path[:80]!r}]")
        total += len(body)
    if total > FILES_MAX_BYTES:
        raise RefusalError(
            RESOURCE_EXHAUSTED, f"context.files has {total} of {FILES_MAX_BYTES} bytes"
        )
    return files


def _relative(path: str) -> str:
    parts = path.split("/")
    if not path or path.startswith("/") or "\0" in path or ".." in parts or parts[-1] in ("", "."):
        raise RefusalError(PARSE_ERROR, f"context.files path {path[:200]!r} leaves the workspace")
    return posixpath.normpath(path)


def _text_map(value: object, what: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise RefusalError(PARSE_ERROR, f"{what} is not an object of text")
    return value


def _environment(value: object, *, has_key: bool) -> dict[str, str]:
    """What the session's code sees. A host that brings a key also names the variable of old, empty:
    a runtime that does not know `auth_public_key` refuses that name, and with it the session."""
    environment = dict(_text_map(value, "env_overrides"))
    if has_key and environment.get(KEY_VARIABLE) == "":
        del environment[KEY_VARIABLE]
    for name, text in environment.items():
        check_variable(name, text)
    if sum(len(name) + len(text) for name, text in environment.items()) > ENVIRONMENT_MAX_BYTES:
        raise RefusalError(
            RESOURCE_EXHAUSTED, f"env_overrides is over {ENVIRONMENT_MAX_BYTES} bytes"
        )
    return environment


def check_variable(name: str, text: str) -> None:
    """Raises RefusalError for an environment variable that a session must not set."""
    if not _is_variable(name):
        raise RefusalError(PARSE_ERROR, f"env_overrides name {name[:80]!r} is not a variable name")
    if name in _REFUSED_NAMES or name.startswith(_REFUSED_PREFIXES):
        raise RefusalError(PARSE_ERROR, f"env_overrides may not set {name!r}")
    if "\0" in text:
        raise RefusalError(PARSE_ERROR, f"env_overrides value of {name!r} has a NUL")
