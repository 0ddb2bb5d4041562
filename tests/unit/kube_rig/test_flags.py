"""The command lines of the cluster's parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kube import flags
from tests.kube.flags import Audit, Files, Ports, Timings
from tests.kube.pki import KeyPair

PORTS = Ports(1, 2, 3, 4, 5, 6, 7)
FILES = Files(Path("ca"), KeyPair(Path("crt"), Path("key")), Path("sa.key"), Path("sa.pub"))
AUDIT = Audit(Path("policy"), Path("log"))


def apiserver(bind: str, sans: tuple[str, ...] = (), *, has_accounts: bool = True) -> list[str]:
    return flags.apiserver(
        Path("/bin/kube-apiserver"),
        FILES,
        PORTS,
        Timings(toleration_s=7),
        AUDIT,
        bind=bind,
        sans=sans,
        has_accounts=has_accounts,
    )


@pytest.mark.parametrize(
    ("bind", "sans", "advertised"),
    [
        ("127.0.0.1", ("10.1.0.1",), "127.0.0.1"),
        ("10.1.0.1", (), "10.1.0.1"),
        ("0.0.0.0", ("api.test", "10.1.0.1"), "10.1.0.1"),
        ("0.0.0.0", ("api.test",), "127.0.0.1"),
    ],
    ids=["loopback", "bridge", "all with an address", "all without one"],
)
def test_an_address_that_others_can_use_is_advertised(
    bind: str, sans: tuple[str, ...], advertised: str
) -> None:
    assert f"--advertise-address={advertised}" in apiserver(bind, sans)


def test_no_endpoint_is_made_of_a_loopback_address() -> None:
    assert "--endpoint-reconciler-type=none" in apiserver("127.0.0.1")
    assert "--endpoint-reconciler-type=lease" in apiserver("10.1.0.1")


def test_a_wildcard_is_dialled_by_loopback() -> None:
    assert flags.address_to_dial("0.0.0.0") == "127.0.0.1"
    assert flags.address_to_dial("10.1.0.1") == "10.1.0.1"


def test_pods_need_an_account_only_where_somebody_makes_accounts() -> None:
    off = "--disable-admission-plugins=ServiceAccount"
    assert off not in apiserver("127.0.0.1")
    assert off in apiserver("127.0.0.1", has_accounts=False)


def test_the_timings_reach_the_parts_that_act_on_them() -> None:
    assert "--default-unreachable-toleration-seconds=7" in apiserver("127.0.0.1")
    timings = Timings(node_monitor_s=2, node_grace_s=9)
    argv = flags.controller_manager(Path("/bin/m"), FILES, PORTS, timings, Path("config"))
    assert {"--node-monitor-period=2s", "--node-monitor-grace-period=9s"} <= set(argv)


def test_only_a_release_with_two_versions_is_given_a_webhook() -> None:
    old = flags.agent_sandbox(Path("/bin/c"), PORTS, Path("config"), None)
    new = flags.agent_sandbox(Path("/bin/c"), PORTS, Path("config"), Path("certs"))
    assert not [word for word in old if "webhook" in word]
    assert {"--manage-webhook-certs=false", "--webhook-cert-dir=certs"} <= set(new)
