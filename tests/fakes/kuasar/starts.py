"""What the annotations of a Pod make a sandboxer of either form attempt when it starts.

Marks as in `sandboxer`; all of this was read (R), but for the key that a template id alone stands
for in the gRPC form (I). Deviation: generations of continuations are not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agentd.kuasar.client import Form

WARM_FORK = "warm_fork"
CONTINUATION = "continuation"
SNAPSHOT_TYPE = "kuasar.io/snapshot-type"
TEMPLATE_KEY = "kuasar.io/template-key"
TEMPLATE_ID = "kuasar.io/template-id"
POD_UID = "kuasar.io/pod-uid"
_OWN = (SNAPSHOT_TYPE, TEMPLATE_KEY, TEMPLATE_ID, POD_UID)
_FORK_TYPES = ("warm-fork", "warm_fork")


class RefusedError(Exception):
    """The words that a client gets."""


@dataclass
class Config:
    """Of a node. Defaults are those of the shipped example, but for `lease`. (R)

    resolver_keys: the annotations that are looked up as keys, in the gRPC form alone.
    """

    has_pool: bool = True
    has_continuations: bool = False
    has_fork_restores: bool = True
    has_environment_restores: bool = True
    has_fallback: bool = True
    resolver_keys: tuple[str, ...] = ()
    storage: str = "virtio-blk"
    max_per_key: int = 5
    gc_watermark: int = 50
    lease: str = "shared"


@dataclass(frozen=True)
class Intent:
    """What to restore. is_final: the start fails with it; else the Pod is booted."""

    key: str
    template_id: str
    is_final: bool
    is_continuation: bool = False


def intent_of(annotations: Mapping[str, str], form: Form, config: Config) -> Intent | None:
    """None: boot. Raises: RefusedError: the start fails at once."""
    has_store = config.has_pool or config.has_continuations
    has_restores = config.has_fork_restores or config.has_continuations
    if not (has_store and has_restores):
        return None
    if form is Form.GRPC and not any(key in annotations for key in _OWN):
        return _mapped(annotations, config)
    kind = annotations.get(SNAPSHOT_TYPE)
    if kind is not None and kind not in (*_FORK_TYPES, CONTINUATION):
        raise RefusedError(f"unsupported {SNAPSHOT_TYPE}: {kind}")
    is_resumed = kind is None and POD_UID in annotations and config.has_continuations
    if kind == CONTINUATION or is_resumed:
        return _continuation(annotations, form, config)
    return _fork(annotations, form, config, is_asked=kind is not None)


def _mapped(annotations: Mapping[str, str], config: Config) -> Intent | None:
    found = [annotations[key] for key in config.resolver_keys if key in annotations]
    return Intent(found[0], "", is_final=False) if found and config.has_fork_restores else None


def _continuation(annotations: Mapping[str, str], form: Form, config: Config) -> Intent | None:
    if config.has_continuations and POD_UID in annotations:
        return Intent("", "", is_final=True, is_continuation=True)
    if form is Form.GRPC:
        return None
    raise RefusedError("continuation restore is not enabled, or pod-uid is missing")


def _fork(
    annotations: Mapping[str, str], form: Form, config: Config, *, is_asked: bool
) -> Intent | None:
    key, template_id = annotations.get(TEMPLATE_KEY, ""), annotations.get(TEMPLATE_ID, "")
    is_able = config.has_fork_restores and config.has_pool and bool(key or template_id)
    if form is Form.GRPC:
        is_final = bool(template_id)
        # It takes the id for the key as well, which then is nobody's. (I)
        return Intent(key or template_id, template_id, is_final) if is_able else None
    if is_asked and not is_able:
        raise RefusedError("warm-fork restore is not enabled, or a selector is missing")
    return Intent(key, template_id, is_asked) if is_able else None
