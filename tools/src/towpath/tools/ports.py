"""TCP ports of this machine: free ones, and whether one can be had."""

import contextlib
import socket
from collections.abc import Collection, Iterable

from towpath.tools.trouble import Trouble


class PortTaken(Trouble):
    """Nobody can listen on a port.

    Args:
        option: Where the port comes from.
        program: Who wants to listen there.
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
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
            trial.listen(1)
    except OSError as error:
        raise PortTaken(option, port, program, error) from None


def free_ports(count: int, *, wanted: Iterable[int] = (), but: Collection[int] = ()) -> list[int]:
    """``count`` ports of 127.0.0.1 that nobody listens on just now: those wanted that are free, then any.

    Args:
        but: Ports that are spoken for.
    """
    with contextlib.ExitStack() as held:
        found: list[int] = []
        for port in (*wanted, *[0] * (count + len(but))):
            trial = held.enter_context(socket.socket())
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                trial.bind(("127.0.0.1", port))
                trial.listen(1)
                if (bound := trial.getsockname()[1]) not in but:
                    found.append(bound)
        return found[:count]
