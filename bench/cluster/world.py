"""Own everything that the demonstration runs, from the first process to the last file."""

from __future__ import annotations

import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from agentd.errors import ConfigError, ErrorCode
from agentd.image import Image
from agentd.providers.local import PROVIDER
from bench.cluster import install
from bench.cluster.control import ControlOptions, ControlPlane
from bench.cluster.leaks import Leaks, Marks, child_pids, find_leaks
from bench.cluster.network import Network, networks_in_use, plan_network, require_root
from bench.cluster.node import DemoNode, NodeOptions
from bench.cluster.observer import Observer
from controlplane.api import names
from controlplane.kube.resource import NODES as NODES_RESOURCE
from tests.kube import ports
from tests.kube.assets import Assets, SandboxVersion
from tests.kube.cluster import Cluster
from tests.kube.flags import Timings
from tests.kube.managed import Managed
from tests.kube.objects import exists
from tests.kube.process import ServerDiedError, Spawner
from tests.kube.redisd import RedisServer, find_redis

NODES = ("node-a", "node-b")
SANDBOX_VERSION: SandboxVersion = "v1beta1"
ABLE_S = 150.0
_UID_BASE = 1_900_000_000
_UIDS_EACH = 10_000_000
# As long as in a production cluster: a node whose agent is restarted keeps its Pods.
TOLERATION_S = 300
# More than twice what lies between two renewals of a Lease by agentd.
NODE_GRACE_S = 24
# The image of deploy/kubernetes/examples/code-interpreter.yaml.
IMAGE_NAME = "snapstart.local/python"

Say = Callable[[str], None]


class World(Managed):
    """etcd to agentd, each a process; `start`, or `with`, makes them run.

    Its files are in a directory of its own, which goes with it. Methods block.
    """

    def __init__(
        self,
        image: Image,
        image_cache_dir: Path,
        *,
        nodes: Sequence[str] = NODES,
        sandbox_version: SandboxVersion = SANDBOX_VERSION,
        settings: Mapping[str, str] | None = None,
        toleration_s: int = TOLERATION_S,
        is_observed: bool = True,
        say: Say = lambda _text: None,
    ) -> None:
        """Args: settings: of the control plane, `GROUP__FIELD` to value. say: told each step."""
        self._image = image
        self._image_cache_dir = image_cache_dir
        self._node_names = nodes
        self._settings = dict(settings or {})
        self._toleration_s = toleration_s
        self._is_observed = is_observed
        self._say = say
        self._stack = ExitStack()
        self._known = child_pids()
        self.sandbox_version: SandboxVersion = sandbox_version
        self.tag = secrets.token_hex(2)
        # Socket paths end at 107 bytes, so this is not below the build directory.
        self.directory = Path(tempfile.gettempdir()) / f"ss-{self.tag}"
        self.nodes: dict[str, DemoNode] = {}
        self.replicas: list[ControlPlane] = []
        self.leaks: Leaks | None = None

    def start(self) -> None:
        """Start everything in the order of need.

        Raises: ConfigError, NoClusterError, ServerDiedError.
        """
        require_root()
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self.directory.mkdir(mode=0o711)
        self._say(f"networks of the nodes; everything is in {self.directory}")
        plan = plan_network(self.tag, self._node_names, networks_in_use())
        self.network = self._stack.enter_context(Network(plan))
        self.spawner = Spawner()
        self._stack.callback(self.spawner.close)
        self._start_cluster()
        self._start_store()
        self._start_control()
        for number, name in enumerate(self._node_names):
            self._add_node(number, name)
        for node in self.nodes.values():
            self._say(f"agentd of {node.name}")
            node.start()
        for node in self.nodes.values():
            self._await_able(node)
        if self._is_observed:
            self._stack.enter_context(self.observing())

    @contextmanager
    def observing(self) -> Iterator[Observer]:
        """Follow the cluster: for the World's life, unless it was made to leave that to others."""
        check = self.cluster.check
        with Observer(self.cluster.kubeconfig, self.sandbox_version, check=check) as observer:
            self.observer = observer
            yield observer

    def close(self) -> None:
        """End everything, then look for what is left; safe to repeat, and not to be interrupted."""
        with _uninterrupted():
            self._stack.close()
            machines = tuple(node.mark for node in self.nodes.values())
            marks = Marks(self.directory, self.tag, machines, self._known)
            self.leaks = find_leaks(marks)

    def check(self) -> None:
        """Raises: ServerDiedError when a part ended that nobody stopped."""
        self.cluster.check()
        for replica in self.replicas:
            replica.server.check()
        for node in self.nodes.values():
            node.server.check()

    def add_replica(self, *, is_awaited: bool = True) -> ControlPlane:
        """One more control plane; the webhooks call the first. Raises: ServerDiedError."""
        number = len(self.replicas) + 1
        webhooks, http = ports.choose(2)
        replica = self._replica(f"controlplane-{number}", webhooks, http)
        replica.start(is_awaited=is_awaited)
        return replica

    def _path(self, name: str) -> Path:
        path = self.directory / name
        path.mkdir(mode=0o711)
        return path

    def _start_cluster(self) -> None:
        self._say("Kubernetes: etcd, API server, scheduler, controller manager, agent-sandbox")
        gateway = self.network.plan.gateway
        self.cluster = self._stack.enter_context(
            Cluster(
                self._path("kube"),
                assets=Assets(),
                agent_sandbox=self.sandbox_version,
                agentcube_crds=True,
                crds=[install.CRDS],
                bind="0.0.0.0",
                sans=[gateway],
                timings=Timings(node_grace_s=NODE_GRACE_S, toleration_s=self._toleration_s),
            )
        )
        self.node_url = f"https://{gateway}:{self.cluster.ports.apiserver}"

    def _start_store(self) -> None:
        self._say("Redis")
        program = find_redis()
        if program is None:
            raise ConfigError(
                ErrorCode.CONFIG_INVALID,
                "looking for redis-server",
                hint="install the Debian package redis-tools",
            )
        password = secrets.token_hex(16)
        server = RedisServer(self._path("redis"), program, options=["--requirepass", password])
        self.redis = self._stack.enter_context(server)
        self.store = {"REDIS_ADDR": f"127.0.0.1:{server.port}", "REDIS_PASSWORD": password}

    def _start_control(self) -> None:
        self._say("the control plane, its webhooks")
        webhooks, http = ports.choose(2)
        self.cluster.apply(install.installation(webhooks))
        self._replica("controlplane-1", webhooks, http).start()

    def _replica(self, name: str, webhook_port: int, http_port: int) -> ControlPlane:
        options = ControlOptions(
            kubeconfig=self.cluster.kubeconfig_for_account(install.NAMESPACE, install.ACCOUNT),
            store=self.store,
            webhook_port=webhook_port,
            http_port=http_port,
            settings=self._settings,
        )
        replica = ControlPlane(name, self._path(name), options, self.spawner)
        self._stack.callback(replica.stop)
        self.replicas.append(replica)
        return replica

    def _add_node(self, number: int, name: str) -> None:
        place = self.network.plan.nodes[number]
        user = install.agent_user(name)
        options = NodeOptions(
            image_cache_dir=self._image_cache_dir,
            images={IMAGE_NAME: self._image.key},
            kubeconfig=self.cluster.kubeconfig_for(user, [install.AGENTS], url=self.node_url),
            uid_base=_UID_BASE + number * _UIDS_EACH,
        )
        node = DemoNode(place, self._path(name), options, self.spawner)
        self._stack.callback(node.close)
        self.nodes[name] = node

    def _await_able(self, node: DemoNode) -> None:
        """Wait until it says on its Node that it can build."""
        path, label = NODES_RESOURCE.path(name=node.name), names.provider_label(PROVIDER)

        def is_able() -> bool:
            node.server.check()
            if not exists(self.cluster, path):
                return False
            return label in self.cluster.api.get(path)["metadata"]["labels"]

        try:
            self.cluster.wait_for(f"{node.name} able to build", is_able, deadline_s=ABLE_S)
        except ServerDiedError as exc:
            raise ServerDiedError(f"{exc}{node.server.tail()}") from exc


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A second Ctrl-C must not leave half of it behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {one: signal.signal(one, signal.SIG_IGN) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
