"""The journey reads what the programs print today."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agentd.settings import load_settings
from tests.package.journey import VENV, blocks, is_held, named_directories, programs_of_units

ROOT = Path(__file__).parents[3]


def paths(script: str) -> set[str]:
    return {word for word in script.split() if Path(word).is_absolute()}


def test_removing_leaves_nothing_but_the_data_directory_that_it_names() -> None:
    """The page's own command, with this environment's program."""
    package, data = blocks("Remove")
    asked, _, removed = package.split("\n", 2)
    said = subprocess.check_output(
        ["sh", "-c", asked.replace(VENV, sys.prefix)], text=True, timeout=30
    )
    settings = load_settings(None, {}, uid=0)
    assert named_directories(said) == {str(settings.data_dir)} == paths(data)
    assert {VENV, str(settings.run_dir), str(settings.image_cache_dir)} <= paths(removed)


def test_what_units_start_is_linked_to_where_they_look_and_the_links_are_removed() -> None:
    started = programs_of_units(ROOT / "systemd")
    assert "/usr/bin/agentd" in started
    [linked] = blocks("As a service")
    names = {Path(path).name for path in paths(linked)}
    assert {Path(path).name for path in started} <= names
    assert started <= paths(blocks("Remove")[0])


def test_of_a_checkout_too() -> None:
    page = (ROOT / "docs" / "operator.md").read_text()
    [linked] = [line for line in page.splitlines() if line.startswith("ln -s /opt/snapstart")]
    names = {Path(path).name for path in paths(linked)}
    assert {Path(path).name for path in programs_of_units(ROOT / "systemd")} <= names


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/dev/shm", False),
        ("/dev/shm/anything", True),
        ("/dev/shm/a/b", True),
        ("/sys/fs/cgroup/user.slice", False),
        ("/sys/fs/cgroup/user.slice/snapstart-1f-vm-2", True),
    ],
)
def test_shared_memory_and_groups_of_machines_would_be_seen(path: str, expected: bool) -> None:
    assert is_held(path) == expected
