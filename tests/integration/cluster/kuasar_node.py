"""A node whose Pods a stand-in sandboxer runs, with a stand-in kubelet and a real agentd.

The kubelet does what the control plane can see of one: it keeps the Node alive, has the Pods bound
to it started as the sandboxer decides by their annotations, says that they run, finishes deletions.
No container runs. A Pod without a runtime class is no sandbox; the agent's own, which the DaemonSet
of deploy/ makes, is one, and agentd runs here with that Pod's token.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

from agentd.client.calls import health
from agentd.client.transport import Transport
from agentd.errors import SnapStartError
from agentd.kuasar.client import Form
from bench.cluster import install
from bench.cluster.world import World
from tests.fakes.kuasar.listener import listening
from tests.fakes.kuasar.node import KuasarNode
from tests.fakes.kuasar.sandboxer import RefusedError, Sandbox
from tests.kube.api import ApiError, Object
from tests.kube.managed import Managed
from tests.kube.objects import MERGE, fake_node, heartbeat
from tests.kube.process import Server

_EVERY_S = 0.1
_HEARTBEAT_S = 5.0
_READY_S = 60.0


async def _hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


class Kubelet(Managed):
    """Serves the sandboxer and looks after the Pods, in a thread of its own."""

    def __init__(self, world: World, name: str, directory: Path, form: Form) -> None:
        self._world = world
        self._name = name
        self.node = KuasarNode(directory, form)
        # A sandboxer serves its container runtime once it has recovered. (M)
        self.listen_path = directory / "listen.sock"
        self.by_uid: dict[str, Sandbox] = {}
        self._addresses = (f"127.77.{n // 250}.{n % 250 + 1}" for n in itertools.count())
        self._end = threading.Event()
        self._served: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name=f"kubelet-{name}", daemon=True)

    def start(self) -> None:
        """Returns once the sandboxer serves."""
        self._thread.start()
        self._served.result(_READY_S)

    def close(self) -> None:
        """Stop it. Idempotent."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as exc:
            if not self._served.done():
                self._served.set_exception(exc)
            raise

    async def _serve(self) -> None:
        beaten_s = 0.0
        async with self.node, listening(self.listen_path, _hang_up):
            self._served.set_result(None)
            while not self._end.is_set():
                if time.monotonic() - beaten_s > _HEARTBEAT_S:
                    beaten_s = time.monotonic()
                    await asyncio.to_thread(heartbeat, self._world.cluster, self._name)
                for pod in await asyncio.to_thread(self.pods):
                    await self._look_after(pod)
                await asyncio.sleep(_EVERY_S)

    def pods(self, *more: str) -> list[Object]:
        """The Pods of the node. more: further field selectors."""
        selectors = ",".join([f"spec.nodeName={self._name}", *more])
        path = f"/api/v1/pods?fieldSelector={selectors}"
        found: list[Object] = self._world.cluster.api.get(path)["items"]
        return found

    async def _look_after(self, pod: Object) -> None:
        meta = pod["metadata"]
        if meta.get("deletionTimestamp"):
            if sandbox := self.by_uid.pop(meta["uid"], None):
                self.node.sandboxer.end(sandbox)
            await asyncio.to_thread(self._finish, meta)
        elif meta["uid"] not in self.by_uid and not pod["status"].get("podIP"):
            with contextlib.suppress(RefusedError):  # a real one tries again, too
                if pod["spec"].get("runtimeClassName"):
                    self.by_uid[meta["uid"]] = self._start(meta)
                await asyncio.to_thread(self._say_running, pod)

    def _start(self, meta: Object) -> Sandbox:
        annotations = meta.get("annotations") or {}
        sandbox = self.node.sandboxer.start(meta["uid"], annotations, self.node.form)
        sandbox.namespace, sandbox.name = meta["namespace"], meta["name"]
        return sandbox

    def _path(self, meta: Object) -> str:
        return f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"

    def _finish(self, meta: Object) -> None:
        with contextlib.suppress(ApiError):  # somebody else did
            self._world.cluster.api.call(
                "DELETE", self._path(meta), {"gracePeriodSeconds": 0, "uid": meta["uid"]}
            )

    def _say_running(self, pod: Object) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        address = next(self._addresses)
        kinds = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
        status = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "startTime": now,
            "conditions": [
                {"type": kind, "status": "True", "lastTransitionTime": now} for kind in kinds
            ],
            "containerStatuses": [
                {
                    "name": one["name"],
                    "image": one["image"],
                    "imageID": one["image"],
                    "ready": True,
                    "started": True,
                    "restartCount": 0,
                    "state": {"running": {"startedAt": now}},
                }
                for one in pod["spec"]["containers"]
            ],
        }
        with contextlib.suppress(ApiError):  # deleted meanwhile
            self._world.cluster.api.call(
                "PATCH",
                f"{self._path(pod['metadata'])}/status",
                {"status": status},
                content_type=MERGE,
            )


class SandboxerNode(Managed):
    """Node, kubelet, sandboxer, agentd. name: of the Node, once started."""

    def __init__(self, world: World, form: Form) -> None:
        self._world = world
        self._form = form
        self._stack = contextlib.ExitStack()

    def start(self) -> None:
        """Raises: ServerDiedError."""
        world = self._world
        self.name = self._stack.enter_context(fake_node(world.cluster))
        self.directory = world.directory / self.name
        self.directory.mkdir(mode=0o700)
        kubelet = Kubelet(world, self.name, self.directory, self._form)
        self.kubelet = self._stack.enter_context(kubelet)
        self.agentd = self._make_agentd()
        self._stack.callback(self.agentd.stop, deadline_s=60.0)
        self.agentd.start()
        self.agentd.wait_ready(self._is_healthy, deadline_s=_READY_S)

    def close(self) -> None:
        """End all of it. Idempotent."""
        self._stack.close()

    def _make_agent_pod(self) -> Object:
        """Label the Node as an administrator does; returns what the DaemonSet makes of it."""
        cluster = self._world.cluster
        cluster.apply(install.daemon_set())
        labels = {"metadata": {"labels": install.AGENT_LABEL}}
        cluster.api.call("PATCH", f"/api/v1/nodes/{self.name}", labels, content_type=MERGE)
        found: list[Object] = []

        def is_there() -> bool:
            found[:] = self.kubelet.pods(f"metadata.namespace={install.NAMESPACE}")
            return bool(found)

        cluster.wait_for(f"the agent's Pod on {self.name}", is_there)
        return found[0]

    def _make_agentd(self) -> Server:
        kubeconfig = self._world.cluster.kubeconfig_for_pod(self._make_agent_pod())
        node = self.kubelet.node
        settings = self.directory / "agentd.toml"
        settings.write_text(
            "[paths]\n"
            f'data_dir = "{self.directory / "data"}"\n'
            f'run_dir = "{self.directory / "run"}"\n'
            f'image_cache_dir = "{self.directory / "images"}"\n'
            "[monitor]\n"
            'qemu_binary = "no-monitor-on-this-node"\n'
            "[node]\n"
            "enabled = true\n"
            f'name = "{self.name}"\n'
            f'kubeconfig = "{kubeconfig}"\n'
            "[kuasar]\n"
            "enabled = true\n"
            f'admin_socket = "{node.admin_path}"\n'
            f'grpc_socket = "{node.grpc_path}"\n'
            f'listen_socket = "{self.kubelet.listen_path}"\n'
            f'cri_socket = "{node.cri_path}"\n'
            f'config_file = "{self.directory / "kuasar.toml"}"\n'
        )
        argv = [sys.executable, "-m", "agentd.cli.agentd", "serve", "--config", str(settings)]
        return Server(
            f"agentd-{self.name}", argv, directory=self.directory, spawner=self._world.spawner
        )

    def _is_healthy(self) -> bool:
        with contextlib.closing(Transport(self.directory / "run" / "agentd.sock")) as transport:
            try:
                transport.send(health())
            except SnapStartError:
                return False
        return True
