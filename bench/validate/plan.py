"""List every scenario, in the order in which they run."""

from __future__ import annotations

from bench.validate.plan_cluster import CLUSTER_SCENARIOS, KUASAR_SCENARIOS
from bench.validate.plan_node import NODE_SCENARIOS

SCENARIOS = (*NODE_SCENARIOS, *CLUSTER_SCENARIOS, *KUASAR_SCENARIOS)
