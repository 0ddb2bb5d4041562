"""Find the programs of a Kubernetes cluster, or have them built."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.kube.gobuild import GoBuilder, NoClusterError, Recipe

__all__ = ["Assets", "NoClusterError", "SandboxAssets", "SandboxVersion", "obtain_all"]

ROOT = Path(__file__).parents[2]
MODULES = Path(__file__).parent / "go"
CACHE = ROOT / "build" / "kube"

SandboxVersion = Literal["v1alpha1", "v1beta1"]
SANDBOX_VERSIONS: tuple[SandboxVersion, ...] = ("v1alpha1", "v1beta1")
SANDBOX = "sigs.k8s.io/agent-sandbox"
AGENTCUBE = "github.com/volcano-sh/agentcube"
PARTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")

KUBERNETES_RECIPE = Recipe(
    name="kubernetes",
    module=MODULES / "kubernetes",
    package=".",
    program="kubernetes",
    links=PARTS,
    version_of="k8s.io/kubernetes",
)
AGENTCUBE_RECIPE = Recipe(
    name="agentcube",
    module=MODULES / "agentcube",
    source=AGENTCUBE,
    copies=("manifests/charts/base/crds/*.yaml",),
)
HELM_RECIPE = Recipe(
    name="helm",
    module=MODULES / "helm",
    package="helm.sh/helm/v3/cmd/helm",
    program="helm",
)
PROMETHEUS_RECIPE = Recipe(
    name="prometheus-operator",
    module=MODULES / "prometheus-operator",
    source="github.com/prometheus-operator/prometheus-operator",
    copies=(
        "example/prometheus-operator-crd/*_servicemonitors.yaml",
        "example/prometheus-operator-crd/*_prometheusrules.yaml",
    ),
)


def sandbox_recipe(version: SandboxVersion) -> Recipe:
    """The agent-sandbox release whose storage version is `version`, with its manifests."""
    return Recipe(
        name=f"agent-sandbox-{version}",
        module=MODULES / f"agent-sandbox-{version}",
        package=f"{SANDBOX}/cmd/agent-sandbox-controller",
        program="agent-sandbox-controller",
        source=SANDBOX,
        copies=("k8s/*.yaml", "k8s/crds/*.yaml"),
    )


@dataclass(frozen=True)
class SandboxAssets:
    """One release of agent-sandbox: its controller, the folder of its manifests."""

    controller: Path
    manifests: Path

    @property
    def crds(self) -> Path:
        """The folder of its CustomResourceDefinitions."""
        return self.manifests / "crds"


def variable_of(part: str) -> str:
    """The environment variable that names one part's program."""
    return "TEST_ASSET_" + part.upper().replace("-", "_")


def named_by_environment(part: str, env: Mapping[str, str]) -> Path | None:
    """Where the environment says that a part is: its own variable, else KUBEBUILDER_ASSETS.

    The folder need not hold every part; the customary one lacks scheduler, controller manager.
    Raises: NoClusterError when the part's own variable names no file.
    """
    own = env.get(variable_of(part))
    if own:
        if not Path(own).is_file():
            raise NoClusterError(f"find {part}", f"{variable_of(part)}={own!r} names no file")
        return Path(own)
    folder = env.get("KUBEBUILDER_ASSETS")
    candidate = Path(folder) / part if folder else None
    return candidate if candidate is not None and candidate.is_file() else None


class Assets:
    """The programs of a cluster, each found or built when it is asked for."""

    def __init__(
        self, *, env: Mapping[str, str] | None = None, builder: GoBuilder | None = None
    ) -> None:
        """Args: env: this process's environment when None. builder: into build/kube when None."""
        self._env = os.environ if env is None else env
        self._builder = builder or GoBuilder(CACHE)

    def part(self, name: str) -> Path:
        """The program of one part of Kubernetes (PARTS). Raises: NoClusterError."""
        found = named_by_environment(name, self._env)
        return found or self._builder.obtain(KUBERNETES_RECIPE) / name

    def sandbox(self, version: SandboxVersion) -> SandboxAssets:
        """The agent-sandbox controller of one API version. Raises: NoClusterError."""
        folder = self._builder.obtain(sandbox_recipe(version))
        return SandboxAssets(folder / "agent-sandbox-controller", folder / "manifests" / "k8s")

    def agentcube_crds(self) -> Path:
        """The folder of AgentCube's CustomResourceDefinitions. Raises: NoClusterError."""
        folder = self._builder.obtain(AGENTCUBE_RECIPE)
        return folder / "manifests" / "manifests" / "charts" / "base" / "crds"

    def helm(self) -> Path:
        """Helm 3. Raises: NoClusterError."""
        found = named_by_environment("helm", self._env)
        return found or self._builder.obtain(HELM_RECIPE) / "helm"

    def prometheus_crds(self) -> Path:
        """The folder with the CRDs of ServiceMonitor and PrometheusRule. Raises: NoClusterError."""
        folder = self._builder.obtain(PROMETHEUS_RECIPE)
        return folder / "manifests" / "example" / "prometheus-operator-crd"


def obtain_all(assets: Assets) -> list[Path]:
    """Everything a whole cluster needs, built where it was not. Raises: NoClusterError."""
    found = [assets.part(name) for name in PARTS]
    found += [assets.sandbox(version).controller for version in SANDBOX_VERSIONS]
    return [*found, assets.agentcube_crds(), assets.helm(), assets.prometheus_crds()]


def main() -> int:
    """Build what is missing, print where each part is; 1 when there can be no cluster."""
    try:
        for path in obtain_all(Assets()):
            print(path)
    except NoClusterError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
