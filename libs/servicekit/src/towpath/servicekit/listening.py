"""Why a program cannot listen: its host or its port, told apart by the error."""

import errno
import socket
from typing import Final

from towpath.servicekit.settings import BadSetting

#: What the port is to blame for. All else is the host's: no such name, no address of this machine.
_PORT_ERRORS: Final = {errno.EADDRINUSE, errno.EACCES, errno.EPERM}
#: What asyncio and uvloop raise where a host and port cannot be listened on.
LISTEN_ERRORS: Final = (OSError, UnicodeError, ValueError, OverflowError)


def blames_port(error: BaseException) -> bool:
    """Whether the port is to blame for ``error``, and not the host."""
    return (
        isinstance(error, OSError)
        and not isinstance(error, socket.gaierror)
        and (error.errno in _PORT_ERRORS or "address already in use" in str(error))
    )


def cannot_listen(
    error: BaseException, host: str, port: int, *, host_setting: str, port_setting: str
) -> BadSetting:
    """``error`` as the setting that is to blame for it."""
    reason = error.strerror if isinstance(error, OSError) else None
    said = f"cannot listen on {host[:100]}: {reason or error}"
    if blames_port(error):
        return BadSetting(port_setting, port, said)
    return BadSetting(host_setting, host, f"{said}; it must be a name or an address of this machine")
