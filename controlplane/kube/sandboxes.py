"""Hide the differences between agent-sandbox's versions."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from controlplane.api import names
from controlplane.api.core import Pod, Sandbox
from controlplane.api.meta import JsonObject
from controlplane.errors import ConfigError, NotFoundError
from controlplane.kube import resource
from controlplane.kube.api import KubeApi
from controlplane.kube.resource import Resource


class SandboxVersion(enum.StrEnum):
    """The versions that are understood, the best first."""

    V1BETA1 = "v1beta1"
    V1ALPHA1 = "v1alpha1"

    @property
    def sandboxes(self) -> Resource:
        """The Sandbox of this version."""
        return resource.sandboxes(self)


_SUSPENDED: Final = "Suspended"


@dataclass(frozen=True)
class SandboxApi:
    """What a cluster serves. extensions: None where templates and warm pools are not served."""

    version: SandboxVersion
    extensions: SandboxVersion | None

    @property
    def sandboxes(self) -> Resource:
        """Sandboxes."""
        return resource.sandboxes(self.version)

    @property
    def templates(self) -> Resource | None:
        """SandboxTemplates, if they are served."""
        return resource.sandbox_templates(self.extensions) if self.extensions else None

    @property
    def warm_pools(self) -> Resource | None:
        """SandboxWarmPools, if they are served."""
        return resource.sandbox_warm_pools(self.extensions) if self.extensions else None


async def discover_sandboxes(api: KubeApi) -> SandboxApi:
    """Ask which versions are served. Raises: ConfigError if agent-sandbox is absent; as KubeApi."""
    version = choose_version(names.SANDBOX_GROUP, await _served(api, names.SANDBOX_GROUP))
    if version is None:
        raise ConfigError(
            f"{names.SANDBOX_GROUP} is not served by this cluster",
            hint="install agent-sandbox first",
        )
    extensions = await _served(api, names.EXTENSIONS_GROUP)
    return SandboxApi(version, choose_version(names.EXTENSIONS_GROUP, extensions))


def choose_version(group: str, served: tuple[str, ...]) -> SandboxVersion | None:
    """The server's preferred version if it is understood, else the best of the others.

    Args: served: the preferred one first. Returns: None if nothing is served.
    Raises: ConfigError if only versions are served that are not understood.
    """
    if not served:
        return None
    known = [str(version) for version in SandboxVersion]
    if served[0] in known:
        return SandboxVersion(served[0])
    for version in SandboxVersion:
        if version in served:
            return version
    raise ConfigError(
        f"{group} is served as {', '.join(served)}; understood are {', '.join(known)}",
        hint="use a release of agent-sandbox that serves one of these",
    )


async def _served(api: KubeApi, group: str) -> tuple[str, ...]:
    try:
        return await api.served_versions(group)
    except NotFoundError:
        return ()


def running_spec(version: SandboxVersion) -> JsonObject:
    """The members of a Sandbox's spec that let it run."""
    if version is SandboxVersion.V1ALPHA1:
        return {"replicas": 1}
    return {"operatingMode": "Running"}


def is_suspended(sandbox: Sandbox) -> bool:
    """It is meant not to run. The condition of that name may be stale, so the spec decides."""
    return sandbox.spec.replicas == 0 or sandbox.spec.operating_mode == _SUSPENDED


def pod_name(sandbox: Sandbox) -> str:
    """The name of the Pod behind a Sandbox; a warm pool's Pods keep the name they had."""
    return sandbox.metadata.annotation(names.POD_NAME) or sandbox.metadata.name


def is_pod_of(pod: Pod, sandbox: Sandbox) -> bool:
    """A Pod is the one behind a Sandbox, not one that only has its name."""
    owner = pod.metadata.controller
    return (
        owner is not None
        and owner.kind == "Sandbox"
        and owner.uid == sandbox.metadata.uid
        and pod.metadata.namespace == sandbox.metadata.namespace
        and pod.metadata.name == pod_name(sandbox)
    )


def node_name(sandbox: Sandbox, pod: Pod | None) -> str:
    """Where it runs, empty if nowhere yet. pod: v1alpha1 says it only there."""
    if pod is not None and is_pod_of(pod, sandbox):
        return pod.node_name
    return sandbox.status.node_name
