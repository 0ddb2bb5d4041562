"""Compose the message that gives a fork its identity (docs/guest-protocol.md, section 4.1).

The guest checks everything again and refuses with the same rules; checking here gives the caller
an answer before a VM has been started for nothing.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from agentd.errors import ErrorCode, InvariantError, UsageError
from agentd.units import MIB
from agentd.warmfork.auth_key import AUTH_KEY_ENV, check_auth_key

PREPARE_MAX_BYTES: Final = 4 * MIB
FILES_MAX_BYTES: Final = 1 * MIB
ENVIRONMENT_MAX_BYTES: Final = 1 * MIB
ENTROPY_BYTES: Final = 64
_ENTROPY_MIN_BYTES: Final = 32
_LABEL_MAX_CHARS: Final = 63

_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_SESSION_ID: Final = re.compile(r"[\x21-\x7e]{1,253}")
_HOSTNAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_MACHINE_ID: Final = re.compile(r"[0-9a-f]{32}")
_NOT_IN_HOSTNAME: Final = re.compile(r"[^a-z0-9]+")

# What could steer the loader, a shell or the interpreter of the runtime itself, or its gate.
_REFUSED_PREFIXES: Final = ("LD_", "PYTHON", "SNAPSTART_")
_REFUSED_NAMES: Final = frozenset(
    {
        "AGENTCUBE_INJECT_SOCKET_PATH",
        "AGENTCUBE_SESSION_GATE",
        "AGENTCUBE_SNAPSTART_BUILD",
        "BASH_ENV",
        "ENV",
        "GCONV_PATH",
        "GLIBC_TUNABLES",
        "IFS",
        "PATH",
        AUTH_KEY_ENV,
        "WARMFORK_READINESS_SOCKET",
    }
)


@dataclass(frozen=True)
class Identity:
    """What makes one fork different from every other.

    machine_id: as machine-id(5), 32 lower-case hex digits. entropy: at least 32 secret bytes.
    """

    session_id: str
    hostname: str
    machine_id: str
    entropy: bytes

    def __repr__(self) -> str:
        return f"Identity({self.session_id!r}, {self.hostname!r}, {self.machine_id!r}, secret)"


class _Context(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    session_id: str
    hostname: str
    machine_id: str
    entropy: bytes
    files: Mapping[str, bytes]
    metadata: Mapping[str, str]
    auth_public_key: str = ""


class _Prepare(msgspec.Struct, frozen=True, kw_only=True, tag="PREPARE"):
    task_id: str
    context: str
    env_overrides: Mapping[str, str]


def new_identity(
    session_id: str, random_bytes: Callable[[int], bytes], hostname: str = ""
) -> Identity:
    """A fresh identity.

    Args: random_bytes: a cryptographic source, such as os.urandom. hostname: made a label; empty
    takes the session id.
    Raises: UsageError for a session id that cannot be one.
    """
    if not _SESSION_ID.fullmatch(session_id):
        raise _invalid(f"session id {session_id[:80]!r} is not 1 to 253 printable ASCII characters")
    wanted = (hostname or session_id).lower()
    label = _NOT_IN_HOSTNAME.sub("-", wanted)[:_LABEL_MAX_CHARS].strip("-")
    return Identity(
        session_id=session_id,
        hostname=label or "session",
        # machine-id(5) asks for the bits of a random UUID to be set.
        machine_id=uuid.UUID(bytes=random_bytes(16), version=4).hex,
        entropy=random_bytes(ENTROPY_BYTES),
    )


def encode_prepare(
    identity: Identity,
    env: Mapping[str, str],
    files: Mapping[str, bytes],
    metadata: Mapping[str, str],
    auth_key: str = "",
) -> bytes:
    """The JSON body of PREPARE, without its length.

    Args: env: environment of the session. files: path relative to the workspace to content, at
    most 1 MiB in all. metadata: for the session's own code. auth_key: PEM of the RSA key whose
    tokens the HTTP interface then demands; empty leaves it to the image.
    Raises: UsageError(REQUEST_INVALID) naming what the guest would refuse.
    """
    _check_identity(identity)
    check_env(env)
    _check_files(files)
    variables = dict(env)
    if auth_key:
        check_auth_key(auth_key)
        # A guest that does not know the member would serve everybody; this name it refuses.
        variables[AUTH_KEY_ENV] = ""
    try:
        context = msgspec.json.encode(
            _Context(
                session_id=identity.session_id,
                hostname=identity.hostname,
                machine_id=identity.machine_id,
                entropy=identity.entropy,
                files=dict(files),
                metadata=dict(metadata),
                auth_public_key=auth_key,
            )
        ).decode()
        body = msgspec.json.encode(
            _Prepare(task_id=identity.session_id, context=context, env_overrides=variables)
        )
    except UnicodeEncodeError as exc:
        raise _invalid(f"a value is not valid Unicode: {exc}") from exc
    if len(body) > PREPARE_MAX_BYTES:
        raise _invalid(
            f"environment, files and metadata take {len(body)} of {PREPARE_MAX_BYTES} bytes"
        )
    return body


def _check_identity(identity: Identity) -> None:
    if not (
        _SESSION_ID.fullmatch(identity.session_id)
        and _HOSTNAME.fullmatch(identity.hostname)
        and _MACHINE_ID.fullmatch(identity.machine_id)
        and len(identity.entropy) >= _ENTROPY_MIN_BYTES
    ):
        raise InvariantError(f"{identity!r} is not a valid identity")


def check_env(env: Mapping[str, str]) -> None:
    """Raises: UsageError for a variable that the guest would refuse, here or in `execute`."""
    for name, value in env.items():
        if not _ENV_NAME.fullmatch(name):
            raise _invalid(f"{name[:80]!r} is not the name of an environment variable")
        if name in _REFUSED_NAMES or name.startswith(_REFUSED_PREFIXES):
            raise _invalid(f"environment variable {name!r} may not be set for a session")
        if "\0" in value:
            raise _invalid(f"the value of environment variable {name!r} has a NUL character")
    size_chars = sum(len(name) + len(value) for name, value in env.items())
    if size_chars > ENVIRONMENT_MAX_BYTES:
        raise _invalid(f"the environment takes {size_chars} of {ENVIRONMENT_MAX_BYTES} bytes")


def _check_files(files: Mapping[str, bytes]) -> None:
    for path in files:
        parts = path.split("/")
        if path.startswith("/") or ".." in parts or parts[-1] in ("", ".") or "\0" in path:
            raise _invalid(f"file path {path[:200]!r} does not name a file below the workspace")
    size_bytes = sum(map(len, files.values()))
    if size_bytes > FILES_MAX_BYTES:
        raise _invalid(
            f"the files take {size_bytes} of {FILES_MAX_BYTES} bytes",
            hint="upload larger files once the session runs",
        )


def _invalid(message: str, *, hint: str = "") -> UsageError:
    return UsageError(ErrorCode.REQUEST_INVALID, message, hint=hint)
