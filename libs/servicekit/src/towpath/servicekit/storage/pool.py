"""The pool of database connections, as an operator sees it: waits, use and evictions.

A service asks for a connection once a transaction, so each is recorded. The warnings are sampled: the first, then a
count at most once a minute.
"""

from typing import Final

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool

from towpath.servicekit.runtime.sampled_log import SampledLog
from towpath.servicekit.runtime.telemetry import Telemetry

#: Seconds: a wait that is worth a warning.
SLOW_WAIT: Final = 0.010
#: The share of connections in use from which on the next transaction is likely to wait.
NEARLY_ALL: Final = 0.95


class PoolMetrics:
    """Watches the pool of ``engine``.

    Args:
        connections: Connections that the pool opens at most.
    """

    def __init__(self, engine: AsyncEngine, connections: int, telemetry: Telemetry) -> None:
        self._pool = engine.pool
        self._connections = connections
        self._wait = telemetry.histogram(
            "database_pool_wait", "Time until a transaction has a connection, with opening or checking one"
        )
        self._slow = SampledLog(
            "database_pool_wait",
            telemetry.counter("database_pool_waits_slow", f"Waits of more than {SLOW_WAIT * 1000:.0f} ms"),
        )
        self._full = SampledLog(
            "database_pool_in_use",
            telemetry.counter(
                "database_pool_full", f"Transactions that began with over {NEARLY_ALL:.0%} of the pool in use"
            ),
        )
        telemetry.gauge(
            "database_pool_in_use", "Share of the pool's connections that are in use", self.in_use
        )
        evicted = telemetry.counter(
            "database_connections_evicted", "Connections found dead, and replaced or dropped"
        )
        event.listen(engine.sync_engine, "invalidate", lambda *_: evicted.add(1))

    def in_use(self) -> float:
        """The share of the pool's connections that are in use, from 0 to 1."""
        return self._pool.checkedout() / self._connections if isinstance(self._pool, QueuePool) else 0.0

    def taken(self, seconds: float) -> None:
        """A transaction has got a connection after ``seconds``."""
        self._wait.record(seconds)
        if seconds > SLOW_WAIT:
            self._slow.add(1, wait_ms=round(seconds * 1000, 1), in_use=round(self.in_use(), 2))
        if (share := self.in_use()) > NEARLY_ALL:
            self._full.add(1, in_use=round(share, 2), connections=self._connections)
