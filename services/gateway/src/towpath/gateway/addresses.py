"""Addresses: the client's address of a connection, also behind a proxy. Pure functions.

Guarantees: an IPv6 address counts as its /64, the smallest block of one customer (RFC 6177); an IPv4 address in IPv6
form counts as IPv4. ``X-Forwarded-For`` is trusted only as far as trusted proxies wrote it: from the right, up to the
first address that is not a trusted proxy. Addresses left of that may be invented by the client.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

#: Used if there is no address, as for a socket that is lost already.
UNKNOWN = "unknown"


def networks(value: str) -> list[IPv4Network | IPv6Network]:
    """The networks of a setting, separated by commas.

    Raises:
        ValueError: One is not a network or an address.
    """
    return [ip_network(text, strict=False) for text in value.replace(",", " ").split()]


def limited_by(host: str) -> str:
    """The address as limits count it: the IPv4 address, or the /64 of an IPv6 address."""
    if ":" not in host:
        return host or UNKNOWN
    try:
        address = _plain(host)
    except ValueError:
        return UNKNOWN
    if isinstance(address, IPv4Address):
        return str(address)
    return str(ip_network((int(address) >> 64 << 64, 64)))


def is_loopback(host: str) -> bool:
    """Whether a host that a program listens on, or connects to, is this machine and cannot be another one."""
    try:
        return _plain(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Proxies:
    """The proxies that are trusted to report the client's address."""

    def __init__(self, trusted: str) -> None:
        self._networks = networks(trusted)

    def trusts(self, host: str) -> bool:
        """Whether ``host`` is a trusted proxy."""
        if not self._networks:
            return False
        try:
            address = _plain(host)
        except ValueError:
            return False
        return any(address in network for network in self._networks)

    def client(self, peer: str, forwarded: Sequence[str]) -> str:
        """The client's address, as limits count it.

        Args:
            peer: The other end of the TCP connection.
            forwarded: The values of ``X-Forwarded-For``, in their order.
        """
        host = peer
        hops = [hop.strip() for value in forwarded for hop in value.split(",")] if self._networks else []
        while hops and self.trusts(host):
            before = hops.pop()
            try:
                _plain(before)
            except ValueError:
                break  # not an address: the proxy that wrote it is the last one known
            host = before
        return limited_by(host)


def _plain(host: str) -> IPv4Address | IPv6Address:
    address = ip_address(host.partition("%")[0])
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
