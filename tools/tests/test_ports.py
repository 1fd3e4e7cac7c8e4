"""Ports that are free, and stay so."""

import socket

import pytest

from towpath.servicekit.runtime.settings import BadSetting
from towpath.testkit.processes import free_port
from towpath.tools.ports import PortTaken, check_free, free_ports, hold


def a_server(port: int = 0) -> socket.socket:
    return socket.create_server(("127.0.0.1", port))


def test_free_ports_are_the_next_unused_ones() -> None:
    (first, second) = free_ports(2, first=18200, but=())
    with a_server(first):
        assert free_ports(1, first=first, but={second})[0] > second


def test_ports_end_at_the_last_one() -> None:
    with pytest.raises(OSError, match="in use"):
        free_ports(2, first=65535, but=())


def test_a_held_port_is_refused_until_it_is_released() -> None:
    port = free_port()
    with hold([("127.0.0.1", port)]):
        with pytest.raises(PortTaken):
            check_free("127.0.0.1", port, option="--port", program="a second one")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
    a_server(port).close()


def test_a_port_that_cannot_be_bound_is_reported_with_the_reason() -> None:
    with (
        a_server() as server,
        pytest.raises(PortTaken, match=r"^--port \d+: the gateway cannot listen there"),
    ):
        check_free("127.0.0.1", server.getsockname()[1], option="--port", program="the gateway")


@pytest.mark.parametrize("host", ["192.0.2.1", "-wr0ng-", "no-such-host.invalid"])
def test_a_host_of_another_machine_is_named_instead_of_the_port(host: str) -> None:
    with pytest.raises(BadSetting, match=f"^TOWPATH_HOST='{host}': cannot listen on "):
        check_free(host, 80, option="--port", program="the gateway")
