"""Run the control plane as a process of its own, as its Deployment would."""

from __future__ import annotations

import http.client
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.kube import probes
from tests.kube.flags import LOOPBACK
from tests.kube.process import Server, Spawner

READY_S = 60.0
_PREFIX = "SNAPSTART_CONTROLPLANE_"


@dataclass(frozen=True)
class ControlOptions:
    """What a replica is told.

    store: the artifact store's variables. settings: `GROUP__FIELD` to value, beside what every
    replica here needs.
    """

    kubeconfig: Path
    store: Mapping[str, str]
    webhook_port: int
    http_port: int
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """All of it."""
        wanted = {
            "KUBE__KUBECONFIG": str(self.kubeconfig),
            "WEBHOOKS__HOST": "127.0.0.1",
            "WEBHOOKS__PORT": str(self.webhook_port),
            "WEBHOOKS__DNS_NAMES": "localhost",
            "HTTP__HOST": "127.0.0.1",
            "HTTP__PORT": str(self.http_port),
            "LOG__FORMAT": "text",
            **self.settings,
        }
        return {**self.store, **{f"{_PREFIX}{name}": value for name, value in wanted.items()}}


class ControlPlane:
    """One replica of `snapstart-controlplane serve`."""

    def __init__(
        self, name: str, directory: Path, options: ControlOptions, spawner: Spawner
    ) -> None:
        self.name = name
        self.options = options
        self.server = Server(
            name,
            [sys.executable, "-m", "controlplane.cli", "serve"],
            directory=directory,
            spawner=spawner,
            env=options.environment,
        )

    def start(self, *, is_awaited: bool = True) -> None:
        """Start it, wait until it serves webhooks and knows what there is.

        Raises: ServerDiedError.
        """
        self.server.start()
        if is_awaited:
            self.server.wait_ready(self.is_ready, deadline_s=READY_S)

    def is_ready(self) -> bool:
        """It says that it is."""
        return probes.answers(self.options.http_port, "/readyz")

    def is_leader(self) -> bool:
        """It runs the controllers, by its own metrics."""
        return self.metric("agentcube_snapshot_controller_leader") == 1.0

    def metric(self, name: str) -> float | None:
        """A series without labels, None if there is none or nobody answers."""
        text = read_metrics(self.options.http_port)
        for line in text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.partition(" ")[2])
        return None

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        self.server.kill()

    def stop(self) -> None:
        """Stop it as a kubelet would."""
        self.server.stop(deadline_s=30.0)


def read_metrics(port: int) -> str:
    """The text of /metrics, empty if nobody answers."""
    link = http.client.HTTPConnection(LOOPBACK, port, timeout=5.0)
    try:
        link.request("GET", "/metrics")
        return link.getresponse().read().decode()
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        link.close()
