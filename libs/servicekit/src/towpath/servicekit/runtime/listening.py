"""Errors of listening on a host and port: which of the two settings is wrong."""

import errno
import socket
from typing import Final

from towpath.servicekit.runtime.settings import BadSetting

#: Errors caused by the port. All others are caused by the host: unknown name, or not an address of this machine.
_PORT_ERRORS: Final = {errno.EADDRINUSE, errno.EACCES, errno.EPERM}
#: Exceptions of asyncio and uvloop for a host and port that cannot be listened on.
LISTEN_ERRORS: Final = (OSError, UnicodeError, ValueError, OverflowError)


def blames_port(error: BaseException) -> bool:
    """Whether ``error`` is caused by the port, and not by the host."""
    return (
        isinstance(error, OSError)
        and not isinstance(error, socket.gaierror)
        and (error.errno in _PORT_ERRORS or _is_busy(error))
    )


def _is_busy(error: BaseException) -> bool:
    return isinstance(error, OSError) and (
        error.errno == errno.EADDRINUSE or "address already in use" in str(error)
    )


def cannot_listen(
    error: BaseException, host: str, port: int, *, host_setting: str, port_setting: str
) -> BadSetting:
    """``error`` as a :class:`BadSetting` of the setting that caused it."""
    reason = error.strerror if isinstance(error, OSError) else None
    said = f"cannot listen on {host[:100]}: {reason or error}"
    if _is_busy(error):
        return BadSetting(
            port_setting, port, f"{said}; use another port, or stop the program that listens on it"
        )
    if blames_port(error):
        return BadSetting(port_setting, port, said)
    return BadSetting(host_setting, host, f"{said}; it must be a name or an address of this machine")
