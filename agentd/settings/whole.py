"""Hold all settings together, resolved."""

from __future__ import annotations

import os
from pathlib import Path

from agentd.errors import ConfigError, ErrorCode
from agentd.settings.cluster_groups import Kuasar, Node, Proxy
from agentd.settings.groups import (
    Admission,
    Api,
    Deadlines,
    Http,
    Lifetime,
    Log,
    Machines,
    Monitor,
    Pager,
    Paths,
    Stop,
    Tracing,
    Warm,
)
from agentd.typed_settings import Group


class Settings(Group, frozen=True):
    """Everything an operator may decide. Nothing in here is secret."""

    paths: Paths = Paths()
    api: Api = Api()
    http: Http = Http()
    monitor: Monitor = Monitor()
    machines: Machines = Machines()
    admission: Admission = Admission()
    lifetime: Lifetime = Lifetime()
    deadlines: Deadlines = Deadlines()
    warm: Warm = Warm()
    node: Node = Node()
    kuasar: Kuasar = Kuasar()
    proxy: Proxy = Proxy()
    pager: Pager = Pager()
    stop: Stop = Stop()
    tracing: Tracing = Tracing()
    log: Log = Log()

    @property
    def data_dir(self) -> Path:
        """The data directory, resolved."""
        return _resolved(self.paths.data_dir)

    @property
    def run_dir(self) -> Path:
        """The run directory, resolved."""
        return _resolved(self.paths.run_dir)

    @property
    def image_cache_dir(self) -> Path:
        """The image cache, resolved."""
        return _resolved(self.paths.image_cache_dir)

    @property
    def socket(self) -> Path:
        """The API's socket, resolved."""
        return self.api.socket or self.run_dir / "agentd.sock"

    @property
    def pager_socket(self) -> Path:
        """The page server's control socket, resolved."""
        return self.pager.control_socket or self.run_dir / "pager.sock"

    @property
    def concurrent_forks(self) -> int:
        """Starts at the same moment, resolved."""
        return self.admission.concurrent_forks or os.cpu_count() or 1

    @property
    def socket_mode(self) -> int:
        """The API socket's permission bits."""
        return int(self.api.socket_mode, 8)


def _resolved(path: Path | None) -> Path:
    if path is None:
        raise ConfigError(ErrorCode.CONFIG_INVALID, "using settings that load_settings never saw")
    return path
