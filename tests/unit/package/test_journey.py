"""The journey reads what the programs print today."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.package.journey import VENV, blocks, named_directories


def test_the_page_names_where_data_is() -> None:
    """The page's own command, with this environment's program."""
    asked = blocks("Remove")[0].splitlines()[0].replace(VENV, sys.prefix)
    said = subprocess.check_output(["sh", "-c", asked], text=True, timeout=30)
    removed = blocks("Remove")[1].split()
    assert named_directories(said) == {word for word in removed if Path(word).is_absolute()}
