"""Reading a file for its SHA-256 leaves the process no larger than it was."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from agentd.units import KIB, MIB

_ROUNDS = """
import sys, threading
from agentd.store.digests import sha256_file
from agentd.store.progress import Steps

def anonymous_kib():
    return next(int(x.split()[1]) for x in open("/proc/self/status") if x.startswith("RssAnon"))

def round():
    with open(sys.argv[1], "rb") as file:
        print(sha256_file(file.fileno(), int(sys.argv[2]), "sha256", Steps()))

for number in range(4):
    before = anonymous_kib()
    thread = threading.Thread(target=round)
    thread.start()
    thread.join()
    print(anonymous_kib() - before)
"""


def test_threads_that_read_for_a_digest_keep_no_memory(tmp_path: Path) -> None:
    size_bytes = 9 * MIB
    path = tmp_path / "memory"
    path.write_bytes(b"snapstart" * MIB)
    argv = [sys.executable, "-c", _ROUNDS, str(path), str(size_bytes)]
    said = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    digests, grown_kib = said.stdout.split()[::2], [int(x) for x in said.stdout.split()[1::2]]
    assert set(digests) == {hashlib.sha256(path.read_bytes()).hexdigest()}
    assert max(grown_kib[1:]) * KIB < MIB, grown_kib
