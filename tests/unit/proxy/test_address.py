"""The proxy listens on its Pod's own address, or not at all."""

from __future__ import annotations

import pytest

from agentd.errors import ConfigError, ErrorCode
from agentd.proxy.address import choose_address

NODE = ("192.0.2.10", "2001:db8::10", "node-a")


@pytest.mark.parametrize("address", ["10.42.0.17", "2001:db8:1::17"])
def test_a_pods_address_is_taken(address: str) -> None:
    assert choose_address({"POD_IP": address}, NODE) == address


def test_without_addresses_of_the_node_a_pods_address_is_taken() -> None:
    assert choose_address({"POD_IP": "192.0.2.10"}, ()) == "192.0.2.10"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        pytest.param("", "not set", id="empty"),
        pytest.param("agentd", "no IP address", id="a name"),
        pytest.param("10.42.0.17:9090", "no IP address", id="with a port"),
        pytest.param("0.0.0.0", "every address", id="any"),
        pytest.param("::", "every address", id="any of version 6"),
        pytest.param("::ffff:0.0.0.0", "every address", id="any, mapped"),
        pytest.param("127.0.0.1", "nobody but this machine", id="loopback"),
        pytest.param("::1", "nobody but this machine", id="loopback of version 6"),
        pytest.param("::ffff:127.0.0.1", "nobody but this machine", id="loopback, mapped"),
        pytest.param("169.254.1.1", "no Pod's", id="link-local"),
        pytest.param("fe80::1%eth0", "no Pod's", id="link-local of an interface"),
        pytest.param("224.0.0.1", "no Pod's", id="multicast"),
        pytest.param("192.0.2.10", "hostNetwork", id="the node's"),
        pytest.param("::ffff:192.0.2.10", "hostNetwork", id="the node's, mapped"),
        pytest.param("2001:DB8:0::10", "hostNetwork", id="the node's, spelt otherwise"),
    ],
)
def test_any_other_address_is_refused(address: str, said: str) -> None:
    with pytest.raises(ConfigError, match=r"\$POD_IP") as caught:
        choose_address({"POD_IP": address}, NODE)
    assert caught.value.code is ErrorCode.CONFIG_INVALID
    assert said in str(caught.value)


def test_defect_96_without_a_pods_address_it_does_not_start() -> None:
    with pytest.raises(ConfigError, match="not set"):
        choose_address({}, NODE)
