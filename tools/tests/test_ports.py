"""Ports that are free, and stay so."""

import socket

import pytest

from towpath.testkit.processes import free_port
from towpath.tools.ports import PortTaken, check_free, free_ports, hold


def a_server(port: int = 0) -> socket.socket:
    return socket.create_server(("127.0.0.1", port))


def test_free_ports_are_the_next_that_nobody_has() -> None:
    (first, second) = free_ports(2, first=18200, but=())
    with a_server(first):
        assert free_ports(1, first=first, but={second})[0] > second


def test_there_are_no_ports_past_the_last() -> None:
    with pytest.raises(OSError, match="in use"):
        free_ports(2, first=65535, but=())


def test_a_held_port_is_refused_to_all_until_it_is_let_go() -> None:
    port = free_port()
    with hold([("127.0.0.1", port)]):
        with pytest.raises(PortTaken):
            check_free("127.0.0.1", port, option="--port", program="a second one")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
    a_server(port).close()


def test_a_port_that_cannot_be_had_is_told_with_the_reason() -> None:
    with pytest.raises(
        PortTaken, match=r"^--port 80: the gateway cannot listen there \(cannot assign requested"
    ):
        check_free("192.0.2.1", 80, option="--port", program="the gateway")
