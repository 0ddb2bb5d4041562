"""What an operator may decide: read once, checked whole, frozen."""

from agentd.settings.cluster_groups import Kuasar, Node, Proxy
from agentd.settings.groups import (
    MONITORS,
    Admission,
    Api,
    Deadlines,
    Lifetime,
    Log,
    Machines,
    Monitor,
    Pager,
    Paths,
    Stop,
    Warm,
)
from agentd.settings.reading import ENV_PREFIX, describe, load_settings
from agentd.settings.whole import Settings

__all__ = [
    "ENV_PREFIX",
    "MONITORS",
    "Admission",
    "Api",
    "Deadlines",
    "Kuasar",
    "Lifetime",
    "Log",
    "Machines",
    "Monitor",
    "Node",
    "Pager",
    "Paths",
    "Proxy",
    "Settings",
    "Stop",
    "Warm",
    "describe",
    "load_settings",
]
