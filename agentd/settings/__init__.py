"""What an operator may decide: read once, checked whole, frozen."""

from agentd.settings.cluster_groups import Kuasar, Node, Proxy
from agentd.settings.examples import example_env_file, example_file
from agentd.settings.groups import (
    MONITORS,
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
    Warm,
)
from agentd.settings.live import RELOADABLE, LiveSettings, Reload, plan_reload
from agentd.settings.reading import ENV_PREFIX, load_settings, read_settings
from agentd.settings.whole import Settings
from agentd.typed_settings import describe

__all__ = [
    "ENV_PREFIX",
    "MONITORS",
    "RELOADABLE",
    "Admission",
    "Api",
    "Deadlines",
    "Http",
    "Kuasar",
    "Lifetime",
    "LiveSettings",
    "Log",
    "Machines",
    "Monitor",
    "Node",
    "Pager",
    "Paths",
    "Proxy",
    "Reload",
    "Settings",
    "Stop",
    "Warm",
    "describe",
    "example_env_file",
    "example_file",
    "load_settings",
    "plan_reload",
    "read_settings",
]
