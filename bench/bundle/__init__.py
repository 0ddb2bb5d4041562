"""Keep what a run measured so that others can check it.

A bundle is a directory:

- `bundle.json`: when, by which command, of which commit, on which machine; the sha256 of every
  other file. It is written last: a directory without it was never finished.
- `samples.jsonl`: every sample, a line each, failures too.
- `percentiles.json`: computed of all samples of a group, by nearest rank; never of other figures.
- `promises.json`, if the run judged any.
- `logs/`, of failures; `evidence/`, what a run recorded beside samples.

`python -m bench.bundle verify DIRECTORY` checks all of it.
"""

from bench.bundle.manifest import SCHEMA, Manifest, Promised
from bench.bundle.percentiles import Group, Percentiles, nearest_rank, summarize_groups
from bench.bundle.reading import Bundle, read_bundle
from bench.bundle.samples import Cache, MachineKind, Sample
from bench.bundle.verify import verify_bundle
from bench.bundle.writer import BundleWriter

__all__ = [
    "SCHEMA",
    "Bundle",
    "BundleWriter",
    "Cache",
    "Group",
    "MachineKind",
    "Manifest",
    "Percentiles",
    "Promised",
    "Sample",
    "nearest_rank",
    "read_bundle",
    "summarize_groups",
    "verify_bundle",
]
