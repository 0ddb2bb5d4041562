"""The command line of each part of the cluster, as pure functions."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.kube.pki import KeyPair

SERVICE_RANGE = "10.96.0.0/16"
# The first address of SERVICE_RANGE: that of the service `kubernetes`.
SERVICE_ADDRESS = "10.96.0.1"
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Timings:
    """How soon the cluster notices a dead node, in whole seconds; a production one takes 40 + 300.

    Args: node_monitor_s: between two looks at the nodes. node_grace_s: since a node's last Lease
    renewal until it counts as unknown. toleration_s: how long pods that say nothing about it
    tolerate a node that is not ready or not reachable, before they are evicted. When no node at all
    is ready, nothing is evicted, whatever these say.
    """

    node_monitor_s: int = 1
    node_grace_s: int = 10
    toleration_s: int = 5


@dataclass(frozen=True)
class Ports:
    """The TCP ports of one cluster."""

    etcd: int
    etcd_peer: int
    apiserver: int
    controller_manager: int
    scheduler: int
    sandbox_health: int
    sandbox_webhook: int


@dataclass(frozen=True)
class Files:
    """What the parts of one cluster know each other by."""

    ca: Path
    serving: KeyPair
    account_key: Path
    account_public: Path


@dataclass(frozen=True)
class Audit:
    """What the API server writes down of requests, and where."""

    policy: Path
    log: Path


def address_to_advertise(bind: str, sans: Sequence[str]) -> str:
    """The address that the API server tells others: its own, else the first among `sans`."""
    if not ipaddress.ip_address(bind).is_unspecified:
        return bind
    return next((name for name in sans if _is_address(name)), LOOPBACK)


def address_to_dial(bind: str) -> str:
    """The address that parts on this machine reach a server bound to `bind` by."""
    return LOOPBACK if ipaddress.ip_address(bind).is_unspecified else bind


def _is_address(name: str) -> bool:
    try:
        return not ipaddress.ip_address(name).is_unspecified
    except ValueError:
        return False


def etcd(program: Path, data: Path, ports: Ports) -> list[str]:
    """etcd without fsync: a machine that loses power loses a test cluster, and may."""
    client = f"http://{LOOPBACK}:{ports.etcd}"
    peer = f"http://{LOOPBACK}:{ports.etcd_peer}"
    return [
        str(program),
        "--name=test",
        f"--data-dir={data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=test={peer}",
        "--unsafe-no-fsync=true",
        "--log-level=warn",
    ]


def apiserver(
    program: Path,
    files: Files,
    ports: Ports,
    timings: Timings,
    audit: Audit,
    *,
    bind: str,
    sans: Sequence[str],
    has_accounts: bool,
) -> list[str]:
    """kube-apiserver; without a controller manager (`has_accounts` false) nobody makes the default
    service account of a namespace, so the plugin that asks every pod for one is off."""
    advertise = address_to_advertise(bind, sans)
    off = [] if has_accounts else ["--disable-admission-plugins=ServiceAccount"]
    return [
        str(program),
        f"--etcd-servers=http://{LOOPBACK}:{ports.etcd}",
        f"--bind-address={bind}",
        f"--advertise-address={advertise}",
        f"--secure-port={ports.apiserver}",
        # The service `kubernetes` cannot point to a loopback address.
        f"--endpoint-reconciler-type={_reconciler(advertise)}",
        f"--tls-cert-file={files.serving.certificate}",
        f"--tls-private-key-file={files.serving.key}",
        f"--client-ca-file={files.ca}",
        f"--service-account-key-file={files.account_public}",
        f"--service-account-signing-key-file={files.account_key}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--authorization-mode=Node,RBAC",
        # The second is off by default, and on in OpenShift.
        "--enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement",
        f"--default-not-ready-toleration-seconds={timings.toleration_s}",
        f"--default-unreachable-toleration-seconds={timings.toleration_s}",
        f"--audit-policy-file={audit.policy}",
        f"--audit-log-path={audit.log}",
        "--shutdown-delay-duration=0s",
        "--profiling=false",
        *off,
    ]


def _reconciler(advertise: str) -> str:
    return "none" if ipaddress.ip_address(advertise).is_loopback else "lease"


def controller_manager(
    program: Path, files: Files, ports: Ports, timings: Timings, kubeconfig: Path
) -> list[str]:
    """kube-controller-manager with all controllers that are on by default."""
    return [
        str(program),
        f"--kubeconfig={kubeconfig}",
        f"--bind-address={LOOPBACK}",
        f"--secure-port={ports.controller_manager}",
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={files.account_key}",
        f"--root-ca-file={files.ca}",
        f"--node-monitor-period={timings.node_monitor_s}s",
        f"--node-monitor-grace-period={timings.node_grace_s}s",
        f"--node-startup-grace-period={timings.node_grace_s}s",
        "--profiling=false",
    ]


def scheduler(program: Path, ports: Ports, kubeconfig: Path) -> list[str]:
    """kube-scheduler with its default profile."""
    return [
        str(program),
        f"--kubeconfig={kubeconfig}",
        f"--bind-address={LOOPBACK}",
        f"--secure-port={ports.scheduler}",
        "--leader-elect=false",
        "--profiling=false",
    ]


def agent_sandbox(
    program: Path, ports: Ports, kubeconfig: Path, webhook_certificates: Path | None
) -> list[str]:
    """agent-sandbox-controller; `webhook_certificates` holds tls.crt and tls.key of its conversion
    webhook, None for a version that has none."""
    webhook = [
        f"--webhook-port={ports.sandbox_webhook}",
        "--manage-webhook-certs=false",
        f"--webhook-cert-dir={webhook_certificates}",
    ]
    return [
        str(program),
        f"--kubeconfig={kubeconfig}",
        "--extensions",
        "--leader-elect=false",
        "--metrics-bind-address=0",
        f"--health-probe-bind-address={LOOPBACK}:{ports.sandbox_health}",
        *(webhook if webhook_certificates else []),
    ]
