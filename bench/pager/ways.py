"""List the ways to a working set that are compared."""

from __future__ import annotations

from dataclasses import dataclass

from bench.pager.prepare import Setting
from bench.pager.programs import Cache
from bench.pager.stand import Way


@dataclass(frozen=True)
class Contender:
    """A way with how many machines start at once on it. label: for people."""

    label: str
    way: Way
    machines: int = 1

    @property
    def key(self) -> str:
        """Names its samples."""
        return self.way.name


TOGETHER = 8


def warm_ways(setting: Setting) -> list[Contender]:
    """One machine, everything in the page cache, in small pieces as faults leave a file."""
    dense, sparse, memfd = setting.dense, setting.sparse, "memfd"
    holes = setting.sparse_set.path
    full, most, some = (setting.sets[share].path for share in (1.0, 0.9, 0.7))
    return [
        Contender("floor: all of it resident", Way("floor", "resident", dense)),
        Contender("MAP_PRIVATE file", Way("map", "file", dense)),
        Contender("MAP_PRIVATE file, zeros are holes", Way("map-sparse", "file", sparse)),
        Contender("raw: on demand", Way("raw-demand", "uffd", dense, "demand")),
        Contender("raw: copied before", Way("raw-before", "uffd", dense, "before")),
        Contender("raw: copied while it runs", Way("raw-while", "uffd", dense, "while")),
        Contender("raw: shared and copied before, memfd", Way("raw-share", memfd, dense, "share")),
        Contender("raw: as many pages in 2 MiB", Way("raw-bulk", "uffd", dense, "bulk")),
        Contender("raw: runs of the same length", Way("raw-runs", "uffd", dense, "runs")),
        Contender("snap-pager", Way("ours", "uffd", dense, "ours", full)),
        Contender("snap-pager, zeros are holes", Way("ours-sparse", "uffd", sparse, "ours", holes)),
        Contender("snap-pager, 90 % recorded", Way("ours-90", "uffd", dense, "ours", most)),
        Contender("snap-pager, 70 % recorded", Way("ours-70", "uffd", dense, "ours", some)),
        Contender("snap-pager, nothing recorded", Way("ours-demand", "uffd", dense, "ours")),
        Contender("snap-pager, memfd", Way("ours-memfd", memfd, dense, "ours", full)),
        Contender(
            "snap-pager, memfd, zeros are holes",
            Way("ours-memfd-sparse", memfd, sparse, "ours", holes),
        ),
        Contender("snap-pager, memfd, 90 %", Way("ours-memfd-90", memfd, dense, "ours", most)),
        Contender("snap-pager, memfd, 70 %", Way("ours-memfd-70", memfd, dense, "ours", some)),
    ]


def cold_ways(setting: Setting) -> list[Contender]:
    """One machine, its files dropped from the page cache. A memfd is in memory by its nature."""
    dense, sparse, data = setting.dense, setting.sparse, setting.data
    full, holes = setting.sets[1.0].path, setting.sparse_set.path
    return [
        Contender("MAP_PRIVATE file", Way("map-cold", "file", dense, cache=Cache.COLD)),
        Contender(
            "MAP_PRIVATE file, zeros are holes",
            Way("map-sparse-cold", "file", sparse, cache=Cache.COLD),
        ),
        Contender(
            "raw: copied before",
            Way("raw-before-cold", "uffd", dense, "before", data=data, cache=Cache.COLD),
        ),
        Contender(
            "raw: copied while it runs",
            Way("raw-while-cold", "uffd", dense, "while", data=data, cache=Cache.COLD),
        ),
        Contender("snap-pager", Way("ours-cold", "uffd", dense, "ours", full, cache=Cache.COLD)),
        Contender(
            "snap-pager, zeros are holes",
            Way("ours-sparse-cold", "uffd", sparse, "ours", holes, cache=Cache.COLD),
        ),
    ]


def warm_crowds(setting: Setting) -> list[Contender]:
    """Eight machines at once, warm."""
    dense, full = setting.dense, setting.sets[1.0].path
    return [
        Contender("MAP_PRIVATE file", Way("map-8", "file", dense), TOGETHER),
        Contender("raw: copied before", Way("raw-before-8", "uffd", dense, "before"), TOGETHER),
        Contender(
            "raw: shared and copied before, memfd",
            Way("raw-share-8", "memfd", dense, "share"),
            TOGETHER,
        ),
        Contender("snap-pager", Way("ours-8", "uffd", dense, "ours", full), TOGETHER),
        Contender("snap-pager, memfd", Way("ours-memfd-8", "memfd", dense, "ours", full), TOGETHER),
    ]


def cold_crowds(setting: Setting) -> list[Contender]:
    """Eight machines at once, cold."""
    dense, data, full = setting.dense, setting.data, setting.sets[1.0].path
    raw = Way("raw-before-8-cold", "uffd", dense, "before", data=data, cache=Cache.COLD)
    ours = Way("ours-8-cold", "uffd", dense, "ours", full, cache=Cache.COLD)
    return [
        Contender("MAP_PRIVATE file", Way("map-8-cold", "file", dense, cache=Cache.COLD), TOGETHER),
        Contender("raw: copied before", raw, TOGETHER),
        Contender("snap-pager", ours, TOGETHER),
    ]


def whole_ways(setting: Setting) -> list[Contender]:
    """Warm, but as one long read leaves a file: one machine, then eight at once."""
    dense, full, whole = setting.dense, setting.sets[1.0].path, Cache.WHOLE
    kernel = "MAP_PRIVATE file, large folios"
    raw = Way("raw-before-whole", "uffd", dense, "before", cache=whole)
    return [
        Contender(kernel, Way("map-whole", "file", dense, cache=whole)),
        Contender("raw: copied before, large folios", raw),
        Contender(
            "snap-pager, large folios",
            Way("ours-whole", "uffd", dense, "ours", full, cache=whole),
        ),
        Contender(kernel, Way("map-8-whole", "file", dense, cache=whole), TOGETHER),
        Contender(
            "snap-pager, large folios",
            Way("ours-8-whole", "uffd", dense, "ours", full, cache=whole),
            TOGETHER,
        ),
    ]
