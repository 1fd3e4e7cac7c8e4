"""Addresses: whom a limit for an address is about."""

from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any


def address_of(peer: Any) -> str:
    """The address of a socket's peer, as limits count it: an IPv6 address by its /64, which one customer has."""
    if not isinstance(peer, tuple) or not peer:
        return ""
    try:
        address = ip_address(str(peer[0]).partition("%")[0])
    except ValueError:
        return str(peer[0])
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ip_network((address, 64), strict=False).network_address)
    return str(address)
