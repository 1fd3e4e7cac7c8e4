"""The relay: publishes what waits in the outbox, and forgets it once the broker has it.

It takes the lease and the first rows, commits, publishes, and in a second transaction deletes what was confirmed and
gives the lease back: no lock is held, and no transaction open, while the broker is slow.

Guarantees:

* What waits is told at least once, and what has one routing key in its order. What could not be told is told again,
  and with it all that came after it with the same key.
* Replicas take turns, so that one tells, and once. It is told twice where one dies, is frozen for longer than the
  lease, or loses its database between the publish and the delete; the lease of a dead one ends by itself.
* It looks at once after a commit of this process (:meth:`Relay.wake`), and every ``outbox_poll`` seconds for what
  another has left. While the broker is away or blocked, or the database, the pauses grow to 5 s, with full jitter.
* A step is no more than one batch of a lane, so that what it has for one key goes as one message, unless others
  publish with that key at the same moment. A key that the broker refuses holds up no other before it fills a step.
"""

import asyncio
import contextlib
import random
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import sqlalchemy as sa
import structlog

from towpath.servicekit import outbox
from towpath.servicekit.broker.interface import BrokerError
from towpath.servicekit.database import Database
from towpath.servicekit.outbox import OutboxTables, Waiting
from towpath.servicekit.outcome import Outgoing
from towpath.servicekit.publisher import Publisher, Sending
from towpath.servicekit.settings import ServiceSettings
from towpath.servicekit.telemetry import Telemetry
from towpath.servicekit.wording import in_words

log = structlog.get_logger(__name__)

#: Seconds. By then a replica that is frozen has lost its queues as well, and its locks.
_LEASE: Final = 15.0
_LONGEST_PAUSE: Final = 5.0
#: Seconds that the last look may take on stop.
_LAST_LOOK: Final = 2.0


class Relay:
    """One replica's relay; made with :meth:`open`, or to be flushed by hand.

    Args:
        lease: Seconds after which another replica goes on for one that is dead or frozen.

    Attributes:
        tables: What it relays.
    """

    def __init__(
        self,
        database: Database,
        tables: OutboxTables,
        publisher: Publisher,
        settings: ServiceSettings,
        telemetry: Telemetry,
        *,
        lease: float = _LEASE,
    ) -> None:
        self.tables = tables
        self._database = database
        self._publisher = publisher
        self._settings = settings
        self._lease = lease
        self._name = secrets.token_hex(8)
        self._woken = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._waiting = 0
        telemetry.gauge(
            "outbox_waiting",
            f"Messages in the outbox that are not told yet; {outbox.COUNTED_UP_TO:,} stands for more",
            lambda: self._waiting,
        )

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        database: Database,
        tables: OutboxTables,
        publisher: Publisher,
        settings: ServiceSettings,
        telemetry: Telemetry,
        *,
        lease: float = _LEASE,
    ) -> AsyncIterator["Relay"]:
        """A relay that runs; on exit it tells what waits, for a moment, and leaves the rest to others."""
        relay = cls(database, tables, publisher, settings, telemetry, lease=lease)
        running = asyncio.create_task(relay._run(), name="outbox: relay")
        try:
            yield relay
            try:
                async with asyncio.timeout(_LAST_LOOK):
                    await relay.flush()
            except Exception as error:
                log.warning("outbox_left", error=in_words(error, 300))
        finally:
            running.cancel()
            await asyncio.wait([running])

    def wake(self) -> None:
        """Say that something may have been put, and committed."""
        self._woken.set()

    async def flush(self) -> bool:
        """Tell all that waits; returns false, at once, if another replica is at it, and will see it all.

        Raises:
            BrokerError: The broker takes nothing of what comes first; it waits.
            SQLAlchemyError, OSError: The database is away.
        """
        loop = asyncio.get_running_loop()
        async with self._one_at_a_time:
            while await self._look():
                taken_at = loop.time()
                waiting = await self._take()
                if waiting is None:
                    return False
                if loop.time() - taken_at >= self._lease:
                    continue  # this process stood still, and another may be at it by now
                told, error = await self._tell(waiting)
                await self._give_back(told)
                if error is not None and not told:
                    raise error
            return True

    # Inside

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                await self.flush()
            except Exception as error:
                failures += 1
                log.warning("outbox_waits", failures=failures, error=in_words(error, 300))
                longest = min(_LONGEST_PAUSE, 0.1 * 2 ** min(failures, 16))
                await asyncio.sleep(random.uniform(0, longest))  # noqa: S311  # jitter
                continue
            failures = 0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.outbox_poll):
                    await self._woken.wait()
            self._woken.clear()

    async def _look(self) -> bool:
        async with self._database.reading() as connection:
            self._waiting = await outbox.count(connection, self.tables)
        return self._waiting > 0

    async def _take(self) -> list[Waiting] | None:
        """The lease, and with it what comes first; ``None`` if another has the lease."""
        async with self._database.transaction() as connection:
            if not await outbox.hold(connection, self.tables, self._name, self._lease):
                return None
            return await outbox.first(
                connection,
                self.tables,
                limit=self._settings.batch_max_items,
                max_bytes=self._settings.batch_max_bytes,
            )

    async def _tell(self, waiting: Sequence[Waiting]) -> tuple[list[int], BaseException | None]:
        """Publish ``waiting``; returns what the broker has by now, and why it does not have the rest."""
        sent: list[tuple[int, Outgoing, Sending]] = []
        told = [one.id for one in waiting if one.outgoing is None]
        refused: dict[tuple[str, str], BaseException] = {}
        for one in waiting:
            item = one.outgoing
            if item is not None and _key(item) not in refused:  # else it would overtake
                try:
                    sent.append((one.id, item, self._publisher.send(item)))
                except BrokerError as error:
                    refused[_key(item)] = error
        results = await self._confirms([sending for _, _, sending in sent])
        failed: dict[tuple[str, str], BaseException] = {}
        for (number, item, _), error_or_none in zip(sent, results, strict=True):
            if error_or_none is not None:
                failed.setdefault(_key(item), error_or_none)
            elif _key(item) not in failed:
                told.append(number)
        return told, next(iter([*failed.values(), *refused.values()]), None)

    async def _confirms(self, sendings: Sequence[Sending]) -> list[BaseException | None]:
        """Wait until all are settled, and keep the lease as long as that takes."""
        settled = asyncio.gather(*sendings, return_exceptions=True)
        while not settled.done():
            await asyncio.wait([settled], timeout=self._lease / 3)
            if not settled.done():
                with contextlib.suppress(sa.exc.SQLAlchemyError, OSError):
                    async with self._database.transaction() as connection:
                        await outbox.hold(connection, self.tables, self._name, self._lease)
        return settled.result()

    async def _give_back(self, told: Sequence[int]) -> None:
        """Forget what was told, and let others have their turn."""
        async with self._database.transaction() as connection:
            await outbox.release(connection, self.tables, self._name)
            await outbox.remove(connection, self.tables, told)


def _key(item: Outgoing) -> tuple[str, str]:
    return item.exchange, item.routing_key
