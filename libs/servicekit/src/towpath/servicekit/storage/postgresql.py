"""PostgreSQL's engine: a small pool, time limits, and TLS that verifies or is not there.

Guarantee: with ``ssl=verify-full`` no connection is made to a server whose certificate does not come from the named
authorities, or is for another name. Each connection reads the certificate files again.
"""

import ssl
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from towpath.servicekit.runtime import database_url
from towpath.servicekit.runtime.settings import BadSetting
from towpath.servicekit.runtime.tls import TlsFiles

_SETTING: Final = "TOWPATH_DATABASE_URL"
#: One unit of work at a time, two rounds of heavy reads, the relay, timers, the sweep and the probe: eight at most,
#: and four nearly always. Each replica of each service takes so many of PostgreSQL's max_connections.
CONNECTIONS_MAX: Final = 8
_CONNECTIONS_KEPT: Final = 4
#: A replica that freezes during a transaction must not keep its locks: another replica has its queues by then.
_FROZEN_AFTER: Final = "15s"
#: Errors of drivers wrap each other this deep at most.
_CAUSES: Final = 10


def engine(url: str, tls: TlsFiles, *, statement_seconds: float) -> AsyncEngine:
    """A pool of connections, none of which is open yet.

    Args:
        tls: Certificate files, for ``ssl=verify-full``.
        statement_seconds: Time limit of a statement.

    Raises:
        BadSetting: A certificate file cannot be used, or would not be.
    """
    made = create_async_engine(
        url,
        pool_size=_CONNECTIONS_KEPT,
        max_overflow=CONNECTIONS_MAX - _CONNECTIONS_KEPT,
        # A connection that the server or a proxy closed meanwhile is replaced before it is used.
        pool_pre_ping=True,
        # Errors are logged, and parameters are what people wrote.
        hide_parameters=True,
        connect_args={
            "timeout": 5,
            "command_timeout": statement_seconds,
            # https://www.postgresql.org/docs/current/runtime-config-client.html#GUC-IDLE-IN-TRANSACTION-SESSION-TIMEOUT
            "server_settings": {"idle_in_transaction_session_timeout": _FROZEN_AFTER},
        },
    )
    if database_url.is_verified(made.url):
        tls.client_context()  # An error now, not at each connect: later a file may be about to be replaced.
        _verify(made, tls)
    elif tls.named:
        raise BadSetting(_SETTING, None, f"must say ssl=verify-full, because {tls.named} is set")
    return made


def is_untrusted(error: BaseException) -> bool:
    """Whether the server's certificate is not trusted."""
    return isinstance(error, ssl.SSLCertVerificationError)


def is_refusal(error: BaseException) -> bool:
    """Whether the server answered and refuses the account or its password, or the account lacks a right.

    SQLSTATE class 28 and 42501: https://www.postgresql.org/docs/current/errcodes-appendix.html
    """
    cause: BaseException | None = error
    for _ in range(_CAUSES):
        if cause is None:
            return False
        state = getattr(cause, "sqlstate", None)
        if isinstance(state, str) and (state.startswith("28") or state == "42501"):
            return True
        cause = getattr(cause, "orig", None) or cause.__cause__
    return False


def _verify(engine: AsyncEngine, tls: TlsFiles) -> None:
    # Not asyncpg's own `ssl="verify-full"`: it reads the authorities from the home folder of the program's user.
    @event.listens_for(engine.sync_engine, "do_connect")
    def add_context(_: sa.Dialect, __: object, ___: Any, options: dict[str, Any]) -> None:
        try:
            options["ssl"] = tls.client_context()
        except BadSetting as error:
            # The database cannot be reached for now; the files may be in the middle of a change.
            raise ConnectionError(str(error)) from None
