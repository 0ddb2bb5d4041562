"""Own a running Kubernetes control plane, from its first process to its last file."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.kube import audit, flags, manifests, ports, probes
from tests.kube.api import Api, ApiError, Object
from tests.kube.assets import Assets, SandboxVersion
from tests.kube.flags import LOOPBACK, Ports, Timings
from tests.kube.identity import Identities
from tests.kube.managed import Managed
from tests.kube.process import POLL_S, Server, ServerDiedError, Spawner

READY_S = 60.0
TOKEN_S = 86400
ETCD, APISERVER = "etcd", "kube-apiserver"
MANAGER, SCHEDULER = "kube-controller-manager", "kube-scheduler"
SANDBOX = "agent-sandbox-controller"
STORE_FIRST = (ETCD, APISERVER)


class Cluster(Managed):
    """A control plane without nodes; what runs pods registers its own.

    Its files are in `directory`, which stays the caller's; logs are `<part>.log` there. Methods
    block, and one thread at a time may call them. The processes die with this one, however it ends.
    """

    def __init__(
        self,
        directory: Path,
        *,
        assets: Assets | None = None,
        controller_manager: bool = True,
        scheduler: bool = True,
        agent_sandbox: SandboxVersion | None = None,
        agentcube_crds: bool = False,
        crds: Sequence[Path | Object] = (),
        bind: str = LOOPBACK,
        sans: Sequence[str] = (),
        timings: Timings | None = None,
    ) -> None:
        """Describe the cluster; `start`, or `with`, makes it run.

        Args: directory: exists, private to this cluster. agent_sandbox: install the CRDs of the
        release that stores this version, run its controller. agentcube_crds: install AgentCube's.
        crds: more to install, before the controllers start, so that the garbage collector knows
        them at once. bind: the API server's address, `0.0.0.0` for every one of this machine.
        sans: further names or addresses that its certificate is for.
        """
        self.directory = directory
        self.ports = Ports(*ports.choose(len(Ports.__dataclass_fields__)))
        self.url = f"https://{flags.address_to_dial(bind)}:{self.ports.apiserver}"
        self.identities = Identities(directory, self.url, [flags.address_to_dial(bind), *sans])
        self.kubeconfig = self.identities.admin_config
        self.api = Api(self.url, self.identities.ca, self.identities.admin)
        self._audit = audit.write_policy(directory)
        self.servers: dict[str, Server] = {}
        self._assets = assets or Assets()
        self._has_manager, self._has_scheduler = controller_manager, scheduler
        self.sandbox_version = agent_sandbox
        self._has_agentcube = agentcube_crds
        self._crds = list(crds)
        self._bind, self._sans = bind, tuple(sans)
        self._timings = timings or Timings()
        self._spawner = Spawner()

    def start(self) -> None:
        """Start every part in the order of need; returns when each is ready. At most once.

        Raises: NoClusterError when a program cannot be had. ServerDiedError when a part does not
        come up.
        """
        self._add_store()
        self._begin(ETCD)
        self._begin(APISERVER)
        self._install()
        self._add_controllers()
        later = [name for name in self.servers if name not in STORE_FIRST]
        for name in later:
            self.servers[name].start()
        for name in later:
            self.servers[name].wait_ready(self._probe(name), deadline_s=READY_S)

    def close(self) -> None:
        """Stop and reap every part, the store last; safe to repeat, final."""
        for name in reversed(self.servers):
            self.servers[name].stop()
        self._spawner.close()

    def check(self) -> None:
        """Raises: ServerDiedError when a part ended that nobody stopped."""
        for server in self.servers.values():
            server.check()

    def kill_apiserver(self) -> None:
        """SIGKILL to the API server."""
        self.servers[APISERVER].kill()

    def restart_apiserver(self) -> None:
        """Stop the API server if it runs, start it on the same port, wait until it is ready."""
        self.restart(APISERVER)

    def kill_etcd(self) -> None:
        """SIGKILL to etcd; the API server stays, its requests fail."""
        self.servers[ETCD].kill()

    def restart_etcd(self) -> None:
        """Start etcd again on its data, wait until it answers, until the API server does."""
        self.restart(ETCD)
        self.servers[APISERVER].wait_ready(self._probe(APISERVER), deadline_s=READY_S)

    def restart(self, name: str) -> None:
        """Stop a part (a key of `servers`) if it runs, start it, wait until it is ready."""
        self.servers[name].stop()
        self._begin(name)

    def apply(self, objects: Iterable[Mapping[str, Any]]) -> list[Object]:
        """Server-side apply in order. Raises: ApiError."""
        return self.api.apply(objects)

    def install_crds(self, items: Sequence[Path | Object]) -> list[Object]:
        """Apply the CRDs among objects, YAML files, folders of them; waits until each is served.

        Raises: ApiError for a refused one. ServerDiedError for one that is not established in time.
        """
        done = self.apply(manifests.crds_of(items))
        for crd in done:
            self._await_served(crd)
        return done

    def kubeconfig_for(
        self, user: str, groups: Sequence[str] = (), *, url: str | None = None
    ) -> Path:
        """A kubeconfig for a user known by certificate; RBAC says what they may.

        Args: url: instead of `self.url`, for one who reaches the API server by another address.
        """
        return self.identities.for_user(user, groups, url=url)

    def kubeconfig_for_account(self, namespace: str, name: str, *, url: str | None = None) -> Path:
        """A kubeconfig with a token, good for a day, of a service account that exists."""
        token = self._token(namespace, name, {})
        return self.identities.for_token(namespace, name, token, url=url)

    def kubeconfig_for_pod(self, pod: Object) -> Path:
        """The same for the account of a Pod that has its node, bound to it as a kubelet does it:
        the token says on which node, and is good while the Pod is there."""
        meta = pod["metadata"]
        bound = {"kind": "Pod", "apiVersion": "v1", "name": meta["name"], "uid": meta["uid"]}
        account = pod["spec"]["serviceAccountName"]
        token = self._token(meta["namespace"], account, {"boundObjectRef": bound})
        return self.identities.for_token(meta["namespace"], f"{account}-{meta['name']}", token)

    def _token(self, namespace: str, account: str, spec: Mapping[str, Any]) -> str:
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
        body = {**asked, "spec": {"expirationSeconds": TOKEN_S, **spec}}
        return str(self.api.call("POST", path, body)["status"]["token"])

    def requests(self) -> list[audit.Request]:
        """What the accounts of audit.GROUPS have asked so far."""
        return audit.read(self._audit.log)

    def kubectl(self, *args: str, timeout_s: float = 30.0) -> str:
        """What `kubectl` prints to the administrator. Raises: CalledProcessError."""
        argv = [str(self._assets.part("kubectl")), f"--kubeconfig={self.kubeconfig}", *args]
        env = {"PATH": os.environ.get("PATH", ""), "HOME": str(self.directory)}
        done = subprocess.run(
            argv, env=env, capture_output=True, text=True, timeout=timeout_s, check=True
        )
        return done.stdout

    def wait_for(self, what: str, is_true: Callable[[], bool], *, deadline_s: float = 30.0) -> None:
        """Poll until `is_true` says so; the end of a part or the deadline ends it.

        Raises: ServerDiedError with `what`, the state that did not come, in its message.
        """
        begun = time.monotonic()
        while not is_true():
            self.check()
            if time.monotonic() - begun > deadline_s:
                raise ServerDiedError(f"after {deadline_s:.0f} s still not: {what}")
            time.sleep(POLL_S)

    def _add(self, name: str, argv: Sequence[str]) -> None:
        self.servers[name] = Server(name, argv, directory=self.directory, spawner=self._spawner)

    def _begin(self, name: str) -> None:
        self.servers[name].start()
        self.servers[name].wait_ready(self._probe(name), deadline_s=READY_S)

    def _add_store(self) -> None:
        program, data = self._assets.part(ETCD), self.directory / "etcd-data"
        self._add(ETCD, flags.etcd(program, data, self.ports))
        argv = flags.apiserver(
            self._assets.part(APISERVER),
            self.identities.files,
            self.ports,
            self._timings,
            self._audit,
            bind=self._bind,
            sans=self._sans,
            has_accounts=self._has_manager,
        )
        self._add(APISERVER, argv)

    def _add_controllers(self) -> None:
        if self._has_manager:
            config = self.kubeconfig_for(f"system:{MANAGER}")
            program, files = self._assets.part(MANAGER), self.identities.files
            argv = flags.controller_manager(program, files, self.ports, self._timings, config)
            self._add(MANAGER, argv)
        if self._has_scheduler:
            config = self.kubeconfig_for(f"system:{SCHEDULER}")
            self._add(SCHEDULER, flags.scheduler(self._assets.part(SCHEDULER), self.ports, config))

    def _install(self) -> None:
        """What has to be there before the controllers start."""
        wanted = list(self._crds)
        if self._has_agentcube:
            wanted.append(self._assets.agentcube_crds())
        if self.sandbox_version is not None:
            wanted += self._add_sandbox(self.sandbox_version)
        self.install_crds(wanted)

    def _add_sandbox(self, version: SandboxVersion) -> list[Object]:
        """Make the controller's account with its rights; returns the CRDs yet to be installed.

        A release with two versions converts between them in the controller. Its CRDs then name it
        by URL, and it is given a certificate of ours: by itself it would make one for the name of
        its service, which nothing here resolves.
        """
        found = self._assets.sandbox(version)
        crds = manifests.load(found.crds)
        needs_webhook = any(manifests.converts_by_webhook(crd) for crd in crds)
        folder = self.identities.webhook_folder() if needs_webhook else None
        self.apply(manifests.access_of(manifests.load(found.manifests)))
        config = self.kubeconfig_for_account(manifests.ACCOUNT_NAMESPACE, manifests.ACCOUNT_NAME)
        self._add(SANDBOX, flags.agent_sandbox(found.controller, self.ports, config, folder))
        url = f"https://{LOOPBACK}:{self.ports.sandbox_webhook}/convert"
        ca = self.identities.ca.read_bytes()
        return [manifests.with_webhook_at(crd, url, ca) for crd in crds]

    def _await_served(self, crd: Object) -> None:
        path = self.api.path_of(crd)
        self.wait_for(
            f"{crd['metadata']['name']} established",
            lambda: manifests.is_established(self.api.get(path)),
        )
        spec = crd["spec"]
        for version in spec["versions"]:
            if version["served"]:
                self.api.resource(f"{spec['group']}/{version['name']}", spec["names"]["kind"])

    def _probe(self, name: str) -> Callable[[], bool]:
        """What tells that a part is ready."""
        checks: dict[str, Callable[[], bool]] = {
            ETCD: lambda: probes.is_etcd_healthy(self.ports.etcd),
            APISERVER: self._is_apiserver_ready,
            MANAGER: self._is_manager_ready,
            SCHEDULER: lambda: probes.answers(self.ports.scheduler, "/readyz", is_tls=True),
            SANDBOX: self._is_sandbox_ready,
        }
        return checks[name]

    def _is_apiserver_ready(self) -> bool:
        try:
            return self.api.read("GET", "/readyz", timeout_s=5.0)[0] == 200
        except OSError:
            return False

    def _is_manager_ready(self) -> bool:
        """Ready once pods can be made: each asks for the default account of its namespace."""
        if not probes.answers(self.ports.controller_manager, "/healthz", is_tls=True):
            return False
        try:
            self.api.get("/api/v1/namespaces/default/serviceaccounts/default")
        except ApiError:
            return False
        return True

    def _is_sandbox_ready(self) -> bool:
        needs_webhook = self.sandbox_version != "v1alpha1"
        return probes.answers(self.ports.sandbox_health, "/readyz") and (
            not needs_webhook or probes.listens(self.ports.sandbox_webhook)
        )
