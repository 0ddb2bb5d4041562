"""Tell from the words of a sandboxer, or from its silence, whose move it is."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agentd.errors import (
    ConfigError,
    ErrorCode,
    PeerError,
    SnapStartError,
    TransientError,
    UsageError,
)

_SHOWN: Final = 500
_UNINDEXED_S: Final = 5.0
_FULL_S: Final = 60.0
_OTHER: Final = "it speaks another form; agentd asks which before its next call"
_LOG: Final = "look at the sandboxer's log"
_FORM: Final = "is it a form that this version knows? look at its log"
LOST_HINT: Final = "it is not known whether it was done: look again before repeating"
SANDBOXER: Final = "the Kuasar sandboxer"

_Kind = type[ConfigError] | type[PeerError] | type[TransientError] | type[UsageError]
# In this order: the first fragment that occurs decides. What a disk or a monitor said comes first,
# since that may contain any of the others.
_TABLE: Final[tuple[tuple[str, _Kind, ErrorCode, str], ...]] = (
    ("disk copy failed", PeerError, ErrorCode.PROVIDER_FAILED, _LOG),
    ("vm.snapshot:", PeerError, ErrorCode.PROVIDER_FAILED, _LOG),
    ("vm.pause:", PeerError, ErrorCode.PROVIDER_FAILED, _LOG),
    (
        "no running sandbox found for pod_uid=",
        TransientError,
        ErrorCode.PROVIDER_UNREACHABLE,
        "it does not know the Pod yet, or was restarted; this passes",
    ),
    (
        "to be running, current status",
        TransientError,
        ErrorCode.GUEST_NOT_READY,
        "look at the Pod: it is not running",
    ),
    (
        "WarmFork ready-check failed before snapshot",
        TransientError,
        ErrorCode.GUEST_NOT_READY,
        "the workload does not listen on its inject socket yet",
    ),
    (
        "no running container found",
        TransientError,
        ErrorCode.GUEST_NOT_READY,
        "the Pod's containers do not run yet",
    ),
    (
        "invalid WarmFork target annotation",
        UsageError,
        ErrorCode.REQUEST_INVALID,
        "correct kuasar.io/warm-fork-containers",
    ),
    (
        "warm-fork-ready-protocol-version",
        UsageError,
        ErrorCode.REQUEST_INVALID,
        'set kuasar.io/warm-fork-ready-protocol-version: "1" in the class\'s buildPodAnnotations',
    ),
    (
        "annotation is required for pods with",
        UsageError,
        ErrorCode.REQUEST_INVALID,
        "name the containers in kuasar.io/warm-fork-containers",
    ),
    (
        "not found in running sandbox",
        UsageError,
        ErrorCode.REQUEST_INVALID,
        "kuasar.io/warm-fork-containers names a container that is not there",
    ),
    (
        "container_storage_backend=virtio-blk",
        ConfigError,
        ErrorCode.PROVIDER_UNABLE,
        'set [hypervisor] container_storage_backend = "virtio-blk" on the node',
    ),
    (
        "template pool not configured",
        ConfigError,
        ErrorCode.PROVIDER_UNABLE,
        "set [template_pool] on the node",
    ),
    (
        "continuation store not configured",
        ConfigError,
        ErrorCode.PROVIDER_UNABLE,
        "set [sandbox.snapshot] enable_continuation_restore on the node",
    ),
    ("currently being restored", UsageError, ErrorCode.TEMPLATE_IN_USE, "a restore is under way"),
    ("in use by a running sandbox", UsageError, ErrorCode.TEMPLATE_IN_USE, "end its sandboxes"),
    (
        "already exists",
        UsageError,
        ErrorCode.TEMPLATE_EXISTS,
        "look whether it is there; a failed snapshot leaves a directory that only the node's "
        "operator can remove",
    ),
    (
        "pool water level exceeded",
        TransientError,
        ErrorCode.NODE_FULL,
        "remove snapshots, or raise gc_watermark on the node",
    ),
    (
        "max_per_key=",
        TransientError,
        ErrorCode.NODE_FULL,
        "end sandboxes of this key, or raise max_per_key on the node",
    ),
    ("not found in pool", UsageError, ErrorCode.TEMPLATE_NOT_FOUND, ""),
    ("not found", UsageError, ErrorCode.TEMPLATE_NOT_FOUND, ""),
    ("unknown action", ConfigError, ErrorCode.PROVIDER_UNABLE, _OTHER),
    ("unknown template action", ConfigError, ErrorCode.PROVIDER_UNABLE, _OTHER),
    ("unknown sandbox action", ConfigError, ErrorCode.PROVIDER_UNABLE, _OTHER),
    ("unknown pool action", ConfigError, ErrorCode.PROVIDER_UNABLE, _OTHER),
)


def unreachable(what: str, path: Path, exc: OSError, *, setting: str) -> SnapStartError:
    """Why connecting to a socket failed: absence, a dead and a forbidden socket are told apart.

    Args: setting: of agentd, where the operator gave the path.
    """
    message = f"{what}: connecting to {str(path)!r}: "
    if isinstance(exc, PermissionError):
        return ConfigError(
            ErrorCode.PERMISSION_DENIED,
            f"{message}{exc}",
            hint="the socket is its owner's alone: run agentd as root",
        )
    if isinstance(exc, FileNotFoundError):
        why, hint = "there is no such socket", f"does its server run, is {setting} its socket?"
    elif isinstance(exc, ConnectionRefusedError):
        why, hint = "nobody listens on it any more", "its server died, or is being restarted"
    else:
        why, hint = str(exc), "does its server run?"
    return TransientError(ErrorCode.PROVIDER_UNREACHABLE, f"{message}{why}", hint=hint)


def no_answer(what: str, got: str, *, peer: str = SANDBOXER, hint: str = _FORM) -> PeerError:
    """For what came back and is no answer. got: read after "sent"; the caller cuts it."""
    return PeerError(ErrorCode.PROVIDER_PROTOCOL, f"{what}: {peer} sent {got}", hint=hint)


def kuasar_error(what: str, said: str) -> SnapStartError:
    """The error that a sandboxer's words stand for.

    Args: what: action, object and form, such as "creating 'k' of Pod a/b by ssi.v1alpha1". said:
    its own words, of any length.
    """
    message = f"{what}: {SANDBOXER} said {said[:_SHOWN]!r}"
    for fragment, kind, code, hint in _TABLE:
        if fragment in said:
            if kind is TransientError:
                delay_s = _FULL_S if code is ErrorCode.NODE_FULL else _UNINDEXED_S
                return TransientError(code, message, hint=hint, delay_s=delay_s)
            return kind(code, message, hint=hint)
    return PeerError(ErrorCode.PROVIDER_FAILED, message, hint=_LOG)
