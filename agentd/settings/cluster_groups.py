"""Define the groups of settings that concern the machine's part in a cluster."""

from __future__ import annotations

from pathlib import Path

from agentd.typed_settings import Group


class Node(Group, frozen=True):
    """This machine's part in a Kubernetes cluster; off unless told otherwise."""

    # Work for a cluster: carry out its SandboxSnapshotTasks.
    enabled: bool = False
    # Of the Node; empty takes $NODE_NAME.
    name: str = ""
    # Empty takes $KUBECONFIG, else the service account of a Pod.
    kubeconfig: str = ""
    # Where the Lease is that says this agent lives.
    namespace: str = "agentcube-system"
    # Register a Node of its own, and run the Pods bound to it. For machines without a kubelet.
    virtual: bool = False
    # The address that a virtual Node gives for itself; empty takes that of the default route.
    address: str = ""
    # Where Pods get their addresses from. All of 127.0.0.0/8 is there already but, being the
    # loopback's, never an endpoint of a Service; another network needs CAP_NET_ADMIN.
    pod_cidr: str = "127.88.0.0/16"
    # Image references of Pods, with or without tag, to keys or directories of guest images. Nothing
    # is ever pulled. Those to snapstart.local/ that are not named take the
    # only image of the cache; if there are several, they wait.
    images: dict[str, str] = {}
    # Further labels of a virtual Node.
    labels: dict[str, str] = {}


class Kuasar(Group, frozen=True):
    """The Kuasar sandboxer of this machine; off unless told otherwise."""

    # Snapshot and delete through it for the cluster.
    enabled: bool = False
    # Its name in SnapshotClasses and in the node's label; sandboxers call themselves otherwise.
    provider: str = "snapstart.kuasar.io"
    # Its --admin-listen.
    admin_socket: Path = Path("/run/vmm-sandboxer-admin.sock")
    # Its --grpc-listen.
    grpc_socket: Path = Path("/run/vmm-sandboxer-service.sock")
    # Its --listen, where its container runtime finds it: served only once it has recovered.
    listen_socket: Path = Path("/run/vmm-sandboxer.sock")
    # Of the container runtime: where it is asked which sandbox is a Pod's.
    cri_socket: Path = Path("/run/containerd/containerd.sock")
    # The sandboxer's own settings, read for warnings, never written.
    config_file: Path = Path("/var/lib/kuasar/config.toml")
    # Seconds for one snapshot. Never cut short: a guest could stay paused.
    create_s: float = 600.0
    # Seconds that a session's Pod may wait after a silent cold start before that is told.
    stuck_s: float = 60.0
    # Delete such a Pod once, so that it is made anew while its snapshot is there.
    replace_stuck: bool = False


class Proxy(Group, frozen=True):
    """The admin proxy for control planes of the first form; off unless told otherwise.

    It listens on $POD_IP alone. Its token is in $KUASAR_PROXY_TOKEN, unless a file is named.
    """

    # Let them make, list, delete templates of the Kuasar sandboxer over HTTP.
    enabled: bool = False
    # Of $POD_IP, the only address it listens on.
    port: int = 9090
    # The bearer token; read again for every call. Unset: $KUASAR_PROXY_TOKEN.
    token_file: Path | None = None
    # PEM; serve TLS, and read again when they change. Unset: plain HTTP.
    certificate_file: Path | None = None
    # PEM; its key.
    key_file: Path | None = None
    # PEM; callers need a certificate that one of these signed, too.
    client_ca_file: Path | None = None
