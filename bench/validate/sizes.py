"""Say how much of each a run does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Counts. cold, forks, together, mixed, episodes: of one node; cluster: sessions of each kind
    in the cluster; cluster_together: there at once.
    """

    name: str
    cold: int
    forks: int
    together: int
    mixed: int
    episodes: int
    cluster: int
    cluster_together: int


QUICK = Sizes("quick", 3, 12, 8, 3, 20, 2, 4)
FULL = Sizes("full", 30, 100, 32, 25, 1000, 10, 8)
