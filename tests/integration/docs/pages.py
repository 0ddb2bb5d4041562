"""Run what pages show: their blocks as scripts, by somebody who has just arrived."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from agentd.image import Image

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 300
START_DAEMON = "agentd serve & until snapctl session list 2>/dev/null; do sleep 0.2; done\n"


def section(page: str, title: str = "") -> str:
    """A page's text, or what stands under one of its headings."""
    text = (ROOT / "docs" / page).read_text()
    if not title:
        return text
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert found, f"{page} has no section {title!r}"
    return found[1]


def script_of(text: str) -> str:
    """The blocks as one script that ends at the first failure.

    Python is run where it stands; a module that begins with its file's name is written there.
    """
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```$", text, re.M | re.S)
    return "set -eu\n" + "".join(_part(kind, body) for kind, body in blocks)


def _part(kind: str, body: str) -> str:
    if kind == "sh":
        return body
    named = re.match(r'"""(\w+\.py):', body)
    reader = f"cat > {named[1]}" if named else "python -"
    return f"{reader} <<'END'\n{body}END\n"


@contextmanager
def somebody(home: Path, image: Image) -> Iterator[Mapping[str, str]]:
    """The environment of somebody new, but for the images, which take minutes to fetch.

    home: an empty directory; afterwards nothing runs that names it.
    """
    run, images = home / "r", image.directory.parents[1]
    try:
        yield {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(home),
            "SNAPSTART_PATHS__DATA_DIR": str(home / "data"),
            "SNAPSTART_PATHS__RUN_DIR": str(run),
            "SNAPSTART_PATHS__IMAGE_CACHE_DIR": str(images),
            "SNAPSTART_CACHE_DIR": str(images),
            "SNAPSTART_SOCKET": str(run / "agentd.sock"),
        }
    finally:
        _end_what_names(home)


def _end_what_names(directory: Path) -> None:
    """A script that failed leaves its daemon, and that one its machines."""
    for process in psutil.process_iter(["environ", "cmdline"]):
        known = [*(process.info["cmdline"] or ()), (process.info["environ"] or {}).get("HOME", "")]
        if any(str(directory) in text for text in known):
            process.kill()


def run_script(script: str, env: Mapping[str, str]) -> str:
    """What the script printed, which has to succeed."""
    home = Path(env["HOME"])
    log = home / "output"
    with log.open("wb") as out:
        done = subprocess.run(
            ["bash", "-c", script],
            env=env, cwd=home, stdout=out, stderr=subprocess.STDOUT, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    text = log.read_text()
    assert done.returncode == 0, text
    return text
