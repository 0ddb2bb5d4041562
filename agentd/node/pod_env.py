"""Resolve the environment that a Pod gives its container, and the key among it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agentd.errors import UsageError
from agentd.node.pod_spec import Refusal
from agentd.node.pod_types import Container, EnvVar, KeyRef, Pod
from agentd.warmfork.auth_key import AUTH_KEY_ENV, check_auth_key
from agentd.warmfork.prepare import check_env
from controlplane.api import names

_REFERENCE: Final = re.compile(r"\$\$|\$\(([^()]+)\)")
_SUBSCRIPT: Final = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")
# They steer a runtime while it builds; a session's guest has passed that point.
_DROPPED: Final = frozenset({names.SESSION_GATE_ENV, "AGENTCUBE_INJECT_SOCKET_PATH"})


@dataclass(frozen=True, order=True)
class Source:
    """An object that values are taken from. kind: Secret or ConfigMap."""

    kind: str
    name: str


@dataclass(frozen=True)
class Environment:
    """What a session is given. auth_key: of its HTTP interface, which its code does not see."""

    variables: Mapping[str, str]
    auth_key: str = ""


# Decoded values by key; None for an object that is not there.
Sources = Mapping[Source, Mapping[str, str] | None]


def sources_of(container: Container) -> tuple[Source, ...]:
    """What has to be read before `resolve_env`."""
    found: dict[Source, None] = {}
    for variable in container.env or ():
        if (reference := _key_ref(variable)) is not None:
            found[reference[0]] = None
    for entry in container.env_from or ():
        if (source := _whole(entry)) is not None:
            found[source[0]] = None
    return tuple(found)


def names_auth_key(container: Container) -> bool:
    """Its requests are to be judged by a key of its own."""
    return any(variable.name == AUTH_KEY_ENV for variable in container.env or ())


def resolve_env(
    pod: Pod, container: Container, sources: Sources, *, pod_ip: str, host_ip: str
) -> Environment | Refusal:
    """Every variable with its value, or why that cannot be.

    `$(NAME)` stands for a variable before it, `$$` for `$` (EnvVar of the core API).
    """
    values: dict[str, str] = {}
    for entry in container.env_from or ():
        refusal = _take_whole(entry, sources, values)
        if refusal is not None:
            return refusal
    for variable in container.env or ():
        value = _value(variable, pod, sources, values, pod_ip, host_ip)
        if isinstance(value, Refusal):
            return value
        if value is not None:
            values[variable.name] = value
    kept = {name: value for name, value in values.items() if name not in _DROPPED}
    auth_key = kept.pop(AUTH_KEY_ENV, None)
    try:
        check_env(kept)
        # An empty one too: who names a key does not mean to serve everybody.
        if auth_key is not None:
            check_auth_key(auth_key)
    except UsageError as exc:
        return Refusal("SnapStartUnsupported", str(exc))
    return Environment(kept, auth_key or "")


def _value(
    variable: EnvVar,
    pod: Pod,
    sources: Sources,
    values: Mapping[str, str],
    pod_ip: str,
    host_ip: str,
) -> str | Refusal | None:
    origin = variable.value_from
    if origin is None:
        return _expand(variable.value, values)
    if origin.field_ref is not None:
        value = _field(origin.field_ref.field_path, pod, pod_ip, host_ip)
        return value if value is not None else _cannot(variable, origin.field_ref.field_path)
    reference = _key_ref(variable)
    if reference is None:
        return _cannot(variable, "its valueFrom")
    source, key = reference
    found = (sources.get(source) or {}).get(key.key)
    if found is None and not key.optional:
        return Refusal(
            "CreateContainerConfigError",
            f"variable {variable.name!r}: {source.kind} {source.name!r} has no key {key.key!r}",
        )
    return found


def _expand(text: str, values: Mapping[str, str]) -> str:
    def replace(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return values.get(match[1], match[0])

    return _REFERENCE.sub(replace, text)


def _field(path: str, pod: Pod, pod_ip: str, host_ip: str) -> str | None:
    meta = pod.metadata
    subscript = _SUBSCRIPT.fullmatch(path)
    if subscript is not None:
        table = meta.labels if subscript[1] == "labels" else meta.annotations
        return (table or {}).get(subscript[2], "")
    return {
        "metadata.name": meta.name,
        "metadata.namespace": meta.namespace,
        "metadata.uid": meta.uid,
        "spec.nodeName": pod.spec.node_name,
        "spec.serviceAccountName": pod.spec.service_account_name,
        "status.podIP": pod_ip,
        "status.podIPs": pod_ip,
        "status.hostIP": host_ip,
        "status.hostIPs": host_ip,
    }.get(path)


def _key_ref(variable: EnvVar) -> tuple[Source, KeyRef] | None:
    origin = variable.value_from
    if origin is None:
        return None
    if origin.secret_key_ref is not None:
        return Source("Secret", origin.secret_key_ref.name), origin.secret_key_ref
    if origin.config_map_key_ref is not None:
        return Source("ConfigMap", origin.config_map_key_ref.name), origin.config_map_key_ref
    return None


def _whole(entry: Mapping[str, object]) -> tuple[Source, bool] | None:
    for member, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
        reference = entry.get(member)
        if isinstance(reference, dict):
            return Source(kind, str(reference.get("name") or "")), bool(reference.get("optional"))
    return None


def _take_whole(
    entry: Mapping[str, object], sources: Sources, values: dict[str, str]
) -> Refusal | None:
    whole = _whole(entry)
    if whole is None:
        return Refusal("SnapStartUnsupported", "envFrom names neither a Secret nor a ConfigMap")
    source, is_optional = whole
    found = sources.get(source)
    if found is None and not is_optional:
        return Refusal("CreateContainerConfigError", f"{source.kind} {source.name!r} is not there")
    prefix = str(entry.get("prefix") or "")
    values.update({f"{prefix}{key}": value for key, value in (found or {}).items()})
    return None


def _cannot(variable: EnvVar, what: str) -> Refusal:
    return Refusal("SnapStartUnsupported", f"variable {variable.name!r}: {what} is not supported")
