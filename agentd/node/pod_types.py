"""Define the part of a Pod that a virtual node reads."""

from __future__ import annotations

import msgspec

from controlplane.api.meta import Camel, JsonObject, ObjectMeta


class FieldRef(Camel, frozen=True):
    """A field of the Pod itself."""

    field_path: str = ""


class KeyRef(Camel, frozen=True):
    """A key of a Secret or ConfigMap."""

    name: str = ""
    key: str = ""
    optional: bool = False


class EnvSource(Camel, frozen=True):
    """Where a variable's value comes from."""

    field_ref: FieldRef | None = None
    secret_key_ref: KeyRef | None = None
    config_map_key_ref: KeyRef | None = None
    resource_field_ref: JsonObject | None = None
    file_key_ref: JsonObject | None = None


class EnvVar(Camel, frozen=True):
    """One variable."""

    name: str = ""
    value: str = ""
    value_from: EnvSource | None = None


class ContainerPort(Camel, frozen=True):
    """A port that a container serves."""

    container_port: int = 0
    protocol: str = "TCP"


class Resources(Camel, frozen=True):
    """What a container may take."""

    limits: dict[str, str | int | float] | None = None
    requests: dict[str, str | int | float] | None = None


class VolumeMount(Camel, frozen=True):
    """Where a volume appears."""

    name: str = ""


class Container(Camel, frozen=True):
    """A container."""

    name: str = ""
    image: str = ""
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    working_dir: str = ""
    env: tuple[EnvVar, ...] | None = None
    env_from: tuple[JsonObject, ...] | None = None
    ports: tuple[ContainerPort, ...] | None = None
    resources: Resources = Resources()
    volume_mounts: tuple[VolumeMount, ...] | None = None
    lifecycle: JsonObject | None = None


class ReadinessGate(Camel, frozen=True):
    """A condition that has to be true too before a Pod is ready."""

    condition_type: str = ""


class PodSpec(Camel, frozen=True):
    """How a Pod runs. volumes: as they were read."""

    node_name: str = ""
    hostname: str = ""
    restart_policy: str = "Always"
    runtime_class_name: str = ""
    service_account_name: str = ""
    host_network: bool = False
    host_pid: bool = msgspec.field(name="hostPID", default=False)
    host_ipc: bool = msgspec.field(name="hostIPC", default=False)
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] | None = None
    volumes: tuple[JsonObject, ...] | None = None
    readiness_gates: tuple[ReadinessGate, ...] | None = None
    termination_grace_period_seconds: int | None = None


class Pod(Camel, frozen=True):
    """A Pod; its status as it was read."""

    metadata: ObjectMeta
    spec: PodSpec = PodSpec()
    status: JsonObject = {}

    @property
    def key(self) -> tuple[str, str]:
        """Namespace, name."""
        return (self.metadata.namespace, self.metadata.name)

    @property
    def phase(self) -> str:
        """Its phase, as last written."""
        return str(self.status.get("phase") or "")

    @property
    def is_over(self) -> bool:
        """It has ended for good."""
        return self.phase in ("Succeeded", "Failed")
