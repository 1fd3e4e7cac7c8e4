"""Addresses: the client's address of a connection, directly and through proxies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from towpath.gateway.addresses import Proxies, is_loopback, limited_by
from towpath.gateway.settings import GatewaySettings


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", "unknown"),
    ],
)
def test_limits_count_an_ipv6_address_by_its_64(host: str, counted: str) -> None:
    assert limited_by(host) == counted


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),  # not a proxy: it may say what it likes
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9, 198.51.100.7"], "198.51.100.7"),  # the left one may be invented
        ("10.0.0.1", ["203.0.113.9", "198.51.100.7, 10.0.0.2"], "198.51.100.7"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["198.51.100.7, nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["2001:db8:1:2::5"], "2001:db8:1:2::/64"),
        ("::ffff:10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
    ],
)
def test_the_client_is_the_rightmost_address_that_is_not_a_trusted_proxy(
    peer: str, forwarded: list[str], client: str
) -> None:
    assert Proxies("10.0.0.0/8").client(peer, forwarded) == client


def test_without_trusted_proxies_the_header_is_ignored() -> None:
    assert Proxies("").client("10.0.0.1", ["198.51.100.7"]) == "10.0.0.1"


@pytest.mark.parametrize(
    ("host", "only_here"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("", False),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("localhost.example", False),
    ],
)
def test_only_a_loopback_address_is_surely_this_machine(host: str, only_here: bool) -> None:
    assert is_loopback(host) is only_here


@given(st.lists(st.text()))
def test_any_forwarded_header_gives_an_address(forwarded: list[str]) -> None:
    assert Proxies("10.0.0.0/8").client("10.0.0.1", forwarded)


def test_an_invalid_network_is_a_bad_setting() -> None:
    with pytest.raises(ValidationError, match="separated by commas"):
        GatewaySettings(trusted_proxies="10.0.0.0/8, proxy")
