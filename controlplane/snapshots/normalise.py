"""Bring a pod template into the one form that all templates of the same meaning share.

The input is what an author or a controller wrote into a SandboxTemplate or a Sandbox: the API
server applies no defaults of Pods to either, only the few in their CRDs. Two things make equal
templates look different. Typed clients, such as the controllers of agent-sandbox, write a template
anew when they copy it: they leave out whatever is "", 0 or false in a field that is no pointer in
k8s.io/api, add `{}` for structs, and spell quantities their way. CRDs fill in defaults. Both are
undone here; nothing else is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from controlplane.api import names
from controlplane.api.meta import JsonObject
from controlplane.errors import RejectedError
from controlplane.snapshots.quantities import canonical_quantity
from controlplane.snapshots.tolerations import toleration_order

# Empty, these still say something: which kind of volume or handler it is, that a selector selects
# everything rather than nothing, that an affinity without terms matches no node.
_PRESENCE: Final = frozenset(
    (
        *("emptyDir", "configMap", "secret", "projected", "downwardAPI", "ephemeral", "image"),
        *("csi", "persistentVolumeClaim", "exec", "httpGet", "tcpSocket", "grpc", "sleep"),
        *("securityContext", "labelSelector", "namespaceSelector", "selector"),
        "requiredDuringSchedulingIgnoredDuringExecution",
    )
)
# No storage class is not the default storage class.
_EMPTY_TEXT: Final = frozenset(("storageClassName",))
# Fields in which false, or 0, is the same as absent: they are no pointers in k8s.io/api; `optional`
# is one, where both mean the same and the CRDs write it out.
_FALSE: Final = frozenset(
    (
        *("hostNetwork", "hostPID", "hostIPC", "stdin", "stdinOnce", "tty", "readOnly", "optional"),
        *("sslEnabled", "chapAuthDiscovery", "chapAuthSession"),
    )
)
_ZERO: Final = frozenset(
    (
        *("hostPort", "initialDelaySeconds", "timeoutSeconds", "periodSeconds"),
        *("successThreshold", "failureThreshold", "partition"),
    )
)
# Members of these are named by the author: nothing in them is a field.
_TEXT_MAPS: Final = frozenset(
    ("labels", "annotations", "nodeSelector", "matchLabels", "volumeAttributes", "options")
)
_QUANTITY_MAPS: Final = frozenset(("limits", "requests", "overhead"))
_QUANTITIES: Final = frozenset(("sizeLimit", "divisor"))
# What absence stands for, as the CRDs or Kubernetes document it.
_DEFAULTS: Final = {"protocol": ("TCP",), "divisor": ("0", "1")}
# Fields whose text is more than text; every other one is taken as it is, or left out if empty.
_SPECIAL_TEXT: Final = _QUANTITIES | _EMPTY_TEXT | _DEFAULTS.keys()

# Sessions wait for this: no union of types is built anew for each value.
_PLAIN: Final = frozenset((str, int, bool, type(None)))
_LISTS: Final = (list, tuple)

# Labels and annotations of a pod template that differ between sessions of one template and never
# reach into the guest. Prefixes end in a slash.
VOLATILE: Final = (
    # agent-sandbox's own: warm pool, claim, hashes of the template's name and content, creator. It
    # copies none of them from a pod template to a Pod except to select Pods by.
    "agents.x-k8s.io/",
    "extensions.agents.x-k8s.io/",
    # AgentCube's: session id, sandbox name, workload name, idle time-out.
    "runtime.agentcube.io/",
    # Ours: the restore intent itself, marks of build Sandboxes.
    "agentcube.volcano.sh/",
    # What asks a provider to restore: taken off sessions and builds alike, so never run.
    *names.PROVIDER_RESTORE_PREFIXES,
    # Added by SandboxWarmPool to Pods nobody uses yet; read by the cluster autoscaler alone.
    "cluster-autoscaler.kubernetes.io/safe-to-evict",
)
_VOLATILE_PREFIXES: Final = tuple(name for name in VOLATILE if name.endswith(("/", "-")))
_VOLATILE_NAMES: Final = frozenset(VOLATILE).difference(_VOLATILE_PREFIXES)


def normalise_pod_spec(spec: JsonObject) -> JsonObject:
    """A new pod spec in the common form; lists keep their order, except tolerations.

    Without `nodeName`, which a build sets for its node, and without an empty `runtimeClassName`.
    Raises: RejectedError for a fraction where Kubernetes has none.
    """
    normal = _struct(spec)
    normal.pop("nodeName", None)
    tolerations = normal.get("tolerations")
    if isinstance(tolerations, list) and len(tolerations) > 1:
        normal["tolerations"] = sorted(tolerations, key=_order)
    return normal


def normalise_metadata(values: Mapping[str, str] | None) -> dict[str, str]:
    """Labels or annotations without the volatile ones."""
    return {key: value for key, value in (values or {}).items() if not is_volatile(key)}


def normalise_claims(templates: Iterable[JsonObject] | None) -> list[JsonObject]:
    """Volume claim templates in the common form."""
    return [_struct(template) for template in templates or ()]


def is_volatile(key: str) -> bool:
    """Whether a label or annotation says nothing of what runs in the Pod."""
    return key in _VOLATILE_NAMES or key.startswith(_VOLATILE_PREFIXES)


def _order(toleration: Any) -> tuple[Any, ...]:
    return toleration_order(toleration if isinstance(toleration, dict) else {})


def _struct(fields: Mapping[str, Any]) -> JsonObject:
    normal = {}
    for name, value in fields.items():
        if type(value) is str and name not in _SPECIAL_TEXT:
            if value:
                normal[name] = value
            continue
        changed = _value(name, value)
        if not _is_absent(name, changed):
            normal[name] = changed
    return normal


def _value(name: str, value: Any) -> Any:
    if name in _QUANTITIES:
        return _quantity(value)
    if type(value) in _PLAIN:
        return value
    if isinstance(value, _LISTS):
        return [_value("", item) for item in value]
    if isinstance(value, Mapping):
        return _map(name, value)
    return _whole(name, value)


def _map(name: str, value: Mapping[str, Any]) -> JsonObject:
    if name in _QUANTITY_MAPS:
        return {key: _quantity(one) for key, one in value.items() if one is not None}
    if name in _TEXT_MAPS:
        return {key: one for key, one in value.items() if one is not None}
    return _struct(value)


def _quantity(value: Any) -> Any:
    is_quantity = isinstance(value, str | int) and not isinstance(value, bool)
    return canonical_quantity(value) if is_quantity else _whole("quantity", value)


def _whole(name: str, value: Any) -> Any:
    """JSON has one kind of number: 1.0 is the integer 1, and 1.5 is nothing Kubernetes has."""
    if not isinstance(value, float):
        return value
    if not value.is_integer():
        raise RejectedError(f"a pod spec holds {value!r} in {name or 'a list'}: want an integer")
    return int(value)


def _is_absent(name: str, value: Any) -> bool:
    """Whether to have this member means the same as not to have it."""
    if value is None:
        return True
    if isinstance(value, dict):
        return not value and name not in _PRESENCE
    if isinstance(value, list):
        return not value
    if isinstance(value, str):
        is_empty = not value and name not in _EMPTY_TEXT
        return is_empty or value in _DEFAULTS.get(name, ())
    if isinstance(value, bool):
        return not value and name in _FALSE
    return value == 0 and name in _ZERO
