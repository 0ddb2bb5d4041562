"""The systemd units, as far as systemd-analyze(1) can tell without starting them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
UNITS = ROOT / "systemd"
NAMES = sorted(
    path.name for kind in ("service", "socket", "slice") for path in UNITS.glob(f"*.{kind}")
)
# What each may be exposed to, of 10; the unit says in comments why it is not less.
EXPOSURE = {
    "agentd.service": 3.5,
    "snap-pager.service": 1.8,
    "snapstart-controlplane.service": 1.1,
    "snapstart-machines.service": 0.5,
}
DROP_INS = {
    "agentd-254.conf": ("agentd.service", "RestartSteps"),
    "snap-pager-kuasar.conf": ("snap-pager.service", "ReadWritePaths"),
    "snap-pager-254.conf": ("snap-pager.service", "FileDescriptorStorePreserve"),
}
PROGRAMS = (
    *("bin/sh", "usr/bin/agentd", "usr/bin/snap-pager"),
    "usr/bin/snapstart-controlplane",
)

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is of the package systemd"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root directory with our units in it, and systemd's own, which they refer to."""
    shutil.copytree("/usr/lib/systemd/system", tmp_path / "usr/lib/systemd/system", symlinks=True)
    place = tmp_path / "etc/systemd/system"
    place.mkdir(parents=True)
    for name in NAMES:
        shutil.copy(UNITS / name, place)
    for name in PROGRAMS:
        program = tmp_path / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.touch(0o755)
    return tmp_path


def analyze(root: Path, *words: str) -> str:
    done = subprocess.run(
        ["systemd-analyze", f"--root={root}", *words],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
    )
    return done.stdout + done.stderr


def exposure(root: Path, name: str) -> float:
    said = analyze(root, "security", "--offline=true", name)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert found is not None, said
    return float(found[1])


def exposures(root: Path, name: str) -> list[str]:
    """What is left of it, as settings that would end each, with the value that is missing."""
    said = analyze(root, "security", "--offline=true", "--no-pager", "--json=short", name)
    return [row["name"] for row in json.loads(said) if float(row["exposure"] or 0)]


def words_about(exposure: str) -> list[str]:
    """Any of which a comment about an exposure has."""
    setting, _, value = exposure.partition("=~")
    if setting in ("SystemCallFilter", "RestrictAddressFamilies"):
        return [value.replace("(", "").partition("|")[0]]
    return [f"{word}=" for word in re.findall(r"(\w+)=", exposure)]


def comments(name: str) -> str:
    lines = (UNITS / name).read_text().splitlines()
    return "\n".join(line for line in lines if line.startswith("#"))


def settings(name: str) -> dict[str, list[str]]:
    """Each key with its values, in order."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text().splitlines():
        key, is_setting, value = line.partition("=")
        if is_setting and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_unit_is_verified_without_a_word(root: Path, name: str) -> None:
    assert analyze(root, "verify", name) == ""


def test_a_mistake_in_a_unit_is_told(root: Path) -> None:
    """Else the silence above would say nothing."""
    place = root / "etc/systemd/system/agentd.service"
    place.write_text(place.read_text().replace("WatchdogSec=30s", "WatchdogSecs=30s"))
    assert "WatchdogSecs" in analyze(root, "verify", "agentd.service")


def test_every_service_has_a_bound_of_its_exposure() -> None:
    assert sorted(EXPOSURE) == [name for name in NAMES if name.endswith(".service")]


@pytest.mark.parametrize("name", sorted(EXPOSURE))
def test_a_service_is_no_more_exposed_than_it_has_to_be(root: Path, name: str) -> None:
    assert exposure(root, name) <= EXPOSURE[name]


@pytest.mark.parametrize("name", sorted(EXPOSURE))
def test_every_exposure_that_remains_is_explained_in_the_unit(root: Path, name: str) -> None:
    said = comments(name)
    left = [one for one in exposures(root, name) if not one.startswith("CapabilityBoundingSet")]
    assert left
    assert [one for one in left if not any(word in said for word in words_about(one))] == []


@pytest.mark.parametrize("name", sorted(EXPOSURE))
def test_every_capability_that_a_unit_keeps_has_its_reason(name: str) -> None:
    [kept] = settings(name)["CapabilityBoundingSet"]
    said = comments(name)
    assert [one for one in kept.split() if one.removeprefix("CAP_") not in said] == []


@pytest.mark.parametrize("name", ["agentd-cluster.conf", "agentd-http.conf"])
def test_a_drop_in_for_the_network_opens_nothing_else(root: Path, name: str) -> None:
    place = root / "etc/systemd/system/agentd.service.d"
    place.mkdir()
    before = exposure(root, "agentd.service")
    shutil.copy(UNITS / name, place)
    assert analyze(root, "verify", "agentd.service") == ""
    assert before < exposure(root, "agentd.service") <= before + 1.1


@pytest.mark.parametrize("name", sorted(DROP_INS))
def test_a_drop_in_has_no_mistake_but_settings_of_newer_versions(root: Path, name: str) -> None:
    """Whatever is told is that this version does not know the setting."""
    unit, setting = DROP_INS[name]
    place = root / f"etc/systemd/system/{unit}.d"
    place.mkdir()
    shutil.copy(UNITS / name, place)
    told = analyze(root, "verify", unit).splitlines()
    assert all("Unknown key" in line for line in told), told
    assert setting in settings(name)


def test_machines_are_not_in_the_agents_unit_and_not_stopped_with_it() -> None:
    """The agent pulls its machines' unit in; nothing the other way."""
    agent, machines = settings("agentd.service"), settings("snapstart-machines.service")
    assert agent["Requires"] == ["snapstart-machines.service"]
    assert agent["KillMode"] == ["process"]
    assert machines["Delegate"] == ["yes"]
    words = [value for key in machines if key != "Description" for value in machines[key]]
    assert not any("agentd" in word for word in words)


def test_clone3_is_not_hidden_from_the_agent() -> None:
    """RestrictNamespaces= makes it fail with ENOSYS, and with it every start of a machine."""
    assert "RestrictNamespaces" not in settings("agentd.service")


def test_directories_have_one_owner_whoever_makes_them() -> None:
    """systemd changes the owner of all that is in a unit's directory if its own is another."""
    lines = (UNITS / "snapstart.tmpfiles").read_text().splitlines()
    rows = {row[1]: row for row in map(str.split, lines) if row and row[0] == "d"}
    agent = settings("agentd.service")
    [group] = agent["Group"]
    for kind, place in (("Runtime", "/run"), ("State", "/var/lib"), ("Cache", "/var/cache")):
        [name] = agent[f"{kind}Directory"]
        mode = agent.get(f"{kind}DirectoryMode", ["0755"])
        assert rows[f"{place}/{name}"][2:5] == [*mode, "root", group]
    assert "StateDirectory" not in settings("snap-pager.service")


def test_the_agent_and_its_machines_are_in_one_slice() -> None:
    """There it looks for their unit (agentd/vmm/cgroup.py)."""
    assert settings("agentd.service")["Slice"] == settings("snapstart-machines.service")["Slice"]


@pytest.mark.parametrize("name", ["agentd.service", "snap-pager.service"])
def test_no_core_goes_to_a_handler_either(name: str) -> None:
    """A pipe gets a dump whatever the limit is, but for 1 (core(5))."""
    assert settings(name)["LimitCORE"] == ["1"]


def test_nothing_that_machines_live_in_goes_away_with_the_agent() -> None:
    agent = settings("agentd.service")
    assert agent["PrivateTmp"] == ["no"]
    assert agent["RuntimeDirectoryPreserve"] == ["yes"]
    assert settings("snap-pager.service")["RuntimeDirectoryPreserve"] == ["yes"]
