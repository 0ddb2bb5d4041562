"""Decide what of a Pod a machine can run."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final

from agentd.image.manifest import ImageManifest
from agentd.image.spec import TOKEN_PACKAGES
from agentd.node.pod_types import Container, Pod
from agentd.units import MIB
from controlplane.api import names

DEFAULT_PORT: Final = 8080
DEFAULT_GRACE_S: Final = 30
HANDLER: Final = "snapstart"
WORKSPACE: Final = "/workspace"
_TOKEN_VOLUME: Final = re.compile(r"kube-api-access-[a-z0-9]+")
_QUANTITY: Final = re.compile(r"([0-9.]+(?:[eE][+-]?[0-9]+)?)([A-Za-z]*)")
_SCALES: Final = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    "k": Decimal(10) ** 3,
    "M": Decimal(10) ** 6,
    "G": Decimal(10) ** 9,
    "T": Decimal(10) ** 12,
    "Ki": Decimal(2) ** 10,
    "Mi": Decimal(2) ** 20,
    "Gi": Decimal(2) ** 30,
    "Ti": Decimal(2) ** 40,
}


@dataclass(frozen=True)
class Refusal:
    """Why a Pod can never run here: the reason and message of a failed one."""

    reason: str
    message: str


@dataclass(frozen=True)
class Bounds:
    """The shape of machines here: what one gets that does not ask, and the most it gets."""

    memory_mib: int
    vcpus: int
    max_memory_mib: int
    max_vcpus: int


@dataclass(frozen=True)
class PodPlan:
    """What to run. key: of the restore intent, empty for none. has_gate: asks for a held build."""

    container: Container
    hostname: str
    key: str
    has_gate: bool
    memory_mib: int
    vcpus: int
    ports: tuple[int, ...]
    restart_policy: str


def plan_pod(pod: Pod, bounds: Bounds) -> PodPlan | Refusal:
    """What to run, or why not.

    A machine is one container whose program is the guest runtime of its image: what would change
    that is refused, because a machine that quietly does something else is worse than none. Probes
    are not run: the guest's gate says when it is ready. The token of a service account is never put
    into a machine.
    """
    refusal = _refuse_pod(pod)
    if refusal is not None:
        return refusal
    container = pod.spec.containers[0]
    refusal = _refuse_container(container)
    if refusal is not None:
        return refusal
    try:
        memory_mib = _memory_mib(container, bounds)
        vcpus = _vcpus(container, bounds)
    except ValueError as exc:
        return Refusal("InvalidResources", str(exc))
    ports = tuple(port.container_port for port in container.ports or () if port.protocol == "TCP")
    return PodPlan(
        container=container,
        hostname=pod.spec.hostname or pod.metadata.name,
        key=pod.metadata.annotation(names.SNAPSHOT_KEY),
        has_gate=any(
            one.name == names.SESSION_GATE_ENV and one.value == "true"
            for one in container.env or ()
        ),
        memory_mib=memory_mib,
        vcpus=vcpus,
        ports=tuple(dict.fromkeys(ports)) or (DEFAULT_PORT,),
        restart_policy=pod.spec.restart_policy,
    )


def _refuse_pod(pod: Pod) -> Refusal | None:
    spec = pod.spec
    if len(spec.containers) != 1 or spec.init_containers:
        count = len(spec.containers) + len(spec.init_containers or ())
        return _unsupported(f"it has {count} containers, a machine is exactly one")
    if spec.host_network or spec.host_pid or spec.host_ipc:
        return _unsupported("it wants namespaces of the host, which a machine does not share")
    for volume in spec.volumes or ():
        name = str(volume.get("name") or "")
        if "emptyDir" not in volume and not _TOKEN_VOLUME.fullmatch(name):
            return _unsupported(f"volume {name!r} cannot be put into a machine; use emptyDir")
    return None


def _refuse_container(container: Container) -> Refusal | None:
    if container.command or container.args:
        return _unsupported("command and args: a machine runs the guest runtime of its image")
    if container.lifecycle:
        return _unsupported("lifecycle hooks: nothing runs them")
    if container.working_dir not in ("", WORKSPACE):
        return _unsupported(f"workingDir {container.working_dir!r}: a machine's is {WORKSPACE}")
    return None


def _unsupported(message: str) -> Refusal:
    return Refusal("SnapStartUnsupported", message)


def _memory_mib(container: Container, bounds: Bounds) -> int:
    """At least what kernel and runtime of the image need to boot."""
    asked = _asked(container, "memory")
    if asked is None:
        return bounds.memory_mib
    wanted = max(math.ceil(asked / MIB), bounds.memory_mib)
    if wanted > bounds.max_memory_mib:
        raise ValueError(f"memory of {wanted} MiB is over this node's {bounds.max_memory_mib}")
    return wanted


def _vcpus(container: Container, bounds: Bounds) -> int:
    asked = _asked(container, "cpu")
    if asked is None:
        return bounds.vcpus
    wanted = max(math.ceil(asked), 1)
    if wanted > bounds.max_vcpus:
        raise ValueError(f"{wanted} processors are over this node's {bounds.max_vcpus}")
    return wanted


def _asked(container: Container, resource: str) -> Decimal | None:
    for asked in (container.resources.limits, container.resources.requests):
        if asked and resource in asked:
            return parse_quantity(str(asked[resource]))
    return None


def parse_quantity(text: str) -> Decimal:
    """A quantity of the API, such as 500m or 1Gi. Raises: ValueError."""
    match = _QUANTITY.fullmatch(text)
    try:
        return Decimal(match[1]) * _SCALES[match[2]] if match else Decimal("nonsense")
    except (InvalidOperation, KeyError):
        raise ValueError(f"{text!r} is not a quantity") from None


def find_image(reference: str, images: Mapping[str, str], default_key: str) -> str:
    """The key or directory of the guest image that a reference stands for, empty if none does.

    A reference is looked up as it is, then without its digest or tag. Those of the registry name
    `snapstart.local` stand for the node's default image, unless the operator says otherwise.
    Args: images: as in the settings. default_key: of the default image, empty if there is none.
    """
    for known in (reference, bare_reference(reference)):
        if known in images:
            return images[known]
    return default_key if reference.startswith("snapstart.local/") else ""


def refuse_image(reference: str, manifest: ImageManifest) -> Refusal | None:
    """Why an image cannot judge the requests of a Pod that brings a key; None if it can.

    Of a root file system nobody knows here: its guest says so itself, before a session starts.
    """
    found = {package.name for package in manifest.packages}
    missing = [name for name in TOKEN_PACKAGES if name not in found]
    if not missing or "python3-minimal" not in found:
        return None
    options = " ".join(f"--package {name}" for name in missing)
    return _unsupported(
        f"image {reference!r} cannot check the tokens that PICOD_AUTH_PUBLIC_KEY demands, for want "
        f"of {' and '.join(missing)}; build it with `snapctl image build {options}`"
    )


def bare_reference(reference: str) -> str:
    """A reference without digest and tag."""
    bare = reference.partition("@")[0]
    head, slash, last = bare.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}"
