"""TCP ports of this machine: free ones, and whether one can be had."""

import contextlib
import errno
import os
import socket
from collections.abc import Collection, Iterable
from typing import Any

from towpath.servicekit.runtime.listening import LISTEN_ERRORS, blames_port, cannot_listen
from towpath.tools.trouble import Trouble


class PortTaken(Trouble):
    """A port cannot be bound.

    Args:
        option: Where the port comes from.
        program: The program that needs the port.
    """

    status = 2

    def __init__(self, option: str, port: int, program: str, error: OSError) -> None:
        reason = (error.strerror or str(error)).lower()
        super().__init__(
            f"{option} {port}: {program} cannot listen there ({reason}); "
            "stop the program that does, or choose another port"
        )


def check_free(host: str, port: int, *, option: str, program: str) -> None:
    """Make sure that ``program`` will be able to listen on ``host:port``.

    Raises:
        PortTaken
        BadSetting: The host is not of this machine.
    """
    try:
        _try(host, port)
    except LISTEN_ERRORS as error:
        if isinstance(error, OSError) and blames_port(error):
            raise PortTaken(option, port, program, error) from None
        raise cannot_listen(error, host, port, host_setting="TOWPATH_HOST", port_setting=option) from None


def free_ports(count: int, *, first: int, but: Collection[int]) -> list[int]:
    """``count`` unused ports of 127.0.0.1: the next ones from ``first`` on.

    Those that the system hands out by itself (from 32768 on, usually) would be taken by the next best connection.

    Args:
        but: Ports that are spoken for.

    Raises:
        OSError: There are not so many.
    """
    found: list[int] = []
    for port in range(first, 65536):
        if len(found) == count:
            break
        if port not in but:
            with contextlib.suppress(OSError):
                _try("127.0.0.1", port)
                found.append(port)
    if len(found) < count:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    return found


def same_or_free(port: int | None, *, first: int) -> int:
    """``port`` of 127.0.0.1 if it is free, else the next free one from ``first`` on.

    Raises:
        OSError: There is none.
    """
    if port is not None:
        with contextlib.suppress(OSError, OverflowError):
            _try("127.0.0.1", port)
            return port
    return free_ports(1, first=first, but=())[0]


def hold(ports: Iterable[tuple[str, int]]) -> contextlib.ExitStack:
    """Keep others off these free ports of hosts, until the holder is closed; who connects meanwhile is refused."""
    with contextlib.ExitStack() as held:
        for host, port in ports:
            family, kind, protocol, _, address = _resolve(host, port)
            holder = held.enter_context(socket.socket(family, kind, protocol))
            with contextlib.suppress(
                OSError
            ):  # connections of the run before may linger; that harms no server
                holder.bind(address)
        return held.pop_all()


def _try(host: str, port: int) -> None:
    family, kind, protocol, _, address = _resolve(host, port)
    with socket.socket(family, kind, protocol) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind(address)
        trial.listen(1)


def _resolve(host: str, port: int) -> tuple[Any, Any, int, str, Any]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
