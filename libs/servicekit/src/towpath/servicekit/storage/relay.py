"""The relay: publishes the messages of the outbox, and deletes them once the broker has confirmed them.

It takes the lease and the first rows, commits, publishes, and in a second transaction deletes the confirmed rows and
releases the lease: no lock is held, and no transaction open, while the broker is slow.

Guarantees:

* Every message is published at least once, and in order per routing key. A message that was not confirmed is
  published again, together with all later messages of the same key.
* One replica at a time holds the lease, so that each message is normally published once. It is published twice if a
  replica dies, freezes for longer than the lease, or loses its database between the publish and the delete; the lease
  of a dead replica expires.
* It polls at once after a commit of this process (:meth:`Relay.wake`), and every ``outbox_poll`` seconds for messages
  that another replica left. While the broker is disconnected or blocked, or the database unreachable, the pauses grow
  to 5 s, with full jitter (:mod:`towpath.servicekit.runtime.backoff`).
* A step is at most one batch of a lane, so that the items of one key are published as one message, unless other code
  publishes with that key at the same moment. Of a step with many keys a few are published at a time, so that other
  messages of this replica wait for these few only. A key that the broker refuses delays no other key until it fills a
  step.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import sqlalchemy as sa
import structlog

from towpath.protocol.envelope import now_ms
from towpath.protocol.messages import read_trace
from towpath.servicekit.broker.interface import BrokerError
from towpath.servicekit.messaging.confirms import PendingConfirms
from towpath.servicekit.messaging.publication import Publication
from towpath.servicekit.messaging.publisher import Publisher
from towpath.servicekit.runtime.backoff import attempts
from towpath.servicekit.runtime.error_text import describe_error
from towpath.servicekit.runtime.settings import ServiceSettings
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.servicekit.storage import outbox
from towpath.servicekit.storage.database import Database
from towpath.servicekit.storage.outbox import OutboxTables, Waiting
from towpath.servicekit.storage.streams import batched

log = structlog.get_logger(__name__)

#: Exchange and routing key: messages with the same one are published in order.
Key = tuple[str, str]

#: Seconds until another replica takes over from a dead one, and may publish its last messages twice (ADR 12). By
#: then a frozen replica has also lost its queues and its locks.
_LEASE: Final = 15.0
#: Seconds that the last poll may take on stop.
_LAST_POLL: Final = 2.0
#: Each key is a message of its own, and all are published in one iteration of the loop: a user in a thousand rooms
#: must not delay the answers to others.
_KEYS_AT_ONCE: Final = 50


@dataclass(slots=True)
class _Sent:
    """The outcome of one step: the posted rows in their order, errors by row, and what was not accepted at all."""

    posted: list[tuple[int, Key]] = field(default_factory=list)
    errors: dict[int, BrokerError] = field(default_factory=dict)
    refused: list[BrokerError] = field(default_factory=list)


class Relay:
    """One replica's relay; created with :meth:`open`, or flushed by the caller.

    Args:
        lease: Seconds after which another replica takes over from a dead or frozen one.

    Attributes:
        tables: The outbox tables.
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
        self._held_until = 0.0  # By this loop's clock.
        self._waiting = 0
        self._oldest_at: int | None = None
        self._telemetry = telemetry
        telemetry.gauge("outbox_lag_seconds", "Age of the oldest message in the outbox", self._lag)
        telemetry.gauge(
            "outbox_waiting",
            f"Messages in the outbox that are not published yet; {outbox.COUNTED_UP_TO:,} means more",
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
        """A running relay; on exit it publishes waiting messages for a moment, and leaves the rest to other
        replicas."""
        relay = cls(database, tables, publisher, settings, telemetry, lease=lease)
        running = asyncio.create_task(relay._run(), name="outbox: relay")
        try:
            yield relay
            try:
                async with asyncio.timeout(_LAST_POLL):
                    await relay.flush()
            except Exception as error:
                log.warning("outbox_not_flushed", error=describe_error(error, 300))
        finally:
            running.cancel()
            await asyncio.wait([running])

    def wake(self) -> None:
        """Signal that messages may have been committed to the outbox."""
        self._woken.set()

    async def flush(self) -> bool:
        """Publish all waiting messages; returns false at once if another replica holds the lease and will publish
        them.

        Raises:
            BrokerError: The broker accepts none of the first rows; they stay in the outbox.
            SQLAlchemyError, OSError: The database cannot be reached.
        """
        loop = asyncio.get_running_loop()
        # The loop, the last poll on stop and callers share one lease, under one name: without the lock each row
        # would be published by two of them.
        async with self._one_at_a_time:
            while await self._poll():
                # Before the statement: the lease is counted from here, so at worst too short and never too long.
                taken_at = loop.time()
                waiting = await self._take()
                # Its holder polls as well, and publishes these rows; if it has died, the lease ends and a later poll
                # takes it.
                if waiting is None:
                    return False
                self._held_until = taken_at + self._lease
                if loop.time() >= self._held_until:
                    continue  # This process was paused, and another replica may have the lease by now.
                published, error = await self._publish(waiting)
                await self._finish(published)
                # If some rows are confirmed, the loop goes on with the rest. If none is, the caller pauses first.
                if error is not None and not published:
                    raise error
            return True

    # Inside

    async def _run(self) -> None:
        # Not `keep_running`: its pauses grow to 30 s, too long for pushes that users wait for.
        while True:
            async for attempt in attempts():
                try:
                    await self.flush()
                    break
                except Exception as error:
                    log.warning("outbox_relay_failed", failures=attempt, error=describe_error(error, 300))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.outbox_poll):
                    await self._woken.wait()
            # After the wait and before the next look: a commit during the look wakes the next wait.
            self._woken.clear()

    async def _poll(self) -> bool:
        async with self._database.reading() as connection:
            self._waiting = await outbox.count(connection, self.tables)
            self._oldest_at = await outbox.oldest(connection, self.tables) if self._waiting else None
        return self._waiting > 0

    def _lag(self) -> float:
        # Grows while the database cannot be asked, too: then nothing is published either.
        return 0.0 if self._oldest_at is None else max(0.0, (now_ms() - self._oldest_at) / 1000)

    async def _take(self) -> list[Waiting] | None:
        """Take the lease and read the first rows; ``None`` if another replica has the lease."""
        # In one transaction: rows that were read before the lease was taken may be published by its last holder.
        async with self._database.transaction() as connection:
            if not await outbox.hold(connection, self.tables, self._name, self._lease):
                return None
            return await outbox.first(
                connection,
                self.tables,
                limit=self._settings.batch_max_items,
                max_bytes=self._settings.batch_max_bytes,
            )

    async def _publish(self, waiting: Sequence[Waiting]) -> tuple[list[int], BrokerError | None]:
        """Publish ``waiting``, and extend the lease meanwhile; returns the ids of the confirmed rows, and the first
        error of the rest.

        Once a message of a key has failed, no later one of the key counts as published: it would overtake.
        """
        sent = _Sent()
        sending = asyncio.ensure_future(self._send(waiting, sent))
        try:
            # A third: one failure to extend it, and there is still time for another try.
            while not (await asyncio.wait([sending], timeout=self._lease / 3))[0]:
                await self._extend()
            sending.result()
        finally:
            sending.cancel()
        # Rows without a publication have nothing to confirm.
        published = [one.id for one in waiting if one.publication is None]
        failed: dict[Key, BrokerError] = {}
        for number, key in sent.posted:
            if (failure := sent.errors.get(number)) is not None:
                failed.setdefault(key, failure)
            # A confirmed row behind a failed one of its key stays, and is published again after it: twice, in order.
            elif key not in failed:
                published.append(number)
        return published, next(iter([*failed.values(), *sent.refused]), None)

    async def _send(self, waiting: Sequence[Waiting], sent: "_Sent") -> None:
        """Post ``waiting`` and wait for the confirms, a few keys at a time, while this relay has the lease."""
        by_key: dict[Key, list[tuple[int, Publication]]] = {}
        for one in waiting:
            # None: its stream no longer has the entry, and the row is deleted.
            if (item := one.publication) is not None:
                by_key.setdefault((item.exchange, item.routing_key), []).append((one.id, item))
        confirms = PendingConfirms()
        for keys in batched(list(by_key), _KEYS_AT_ONCE):
            # After a freeze between two parts another replica may have published the rest, and later messages: this
            # would publish older ones behind them.
            if asyncio.get_running_loop().time() >= self._held_until:
                return
            for key in keys:
                try:
                    for number, item in by_key[key]:
                        trace = read_trace(bytes(item.item)) if self._telemetry.records else None
                        self._publisher.post(item, partial(_on_confirm, number, sent.errors, confirms), trace)
                        confirms.expect()
                        sent.posted.append((number, key))
                except BrokerError as error:
                    # The rest of a refused key waits, to keep its order.
                    sent.refused.append(error)
            await confirms.confirmed()

    async def _extend(self) -> None:
        loop = asyncio.get_running_loop()
        asked = loop.time()
        if asked >= self._held_until:
            return  # It is another's to take.
        # After a failure the wait goes on: messages are on their way, and the next third may still extend the lease.
        with contextlib.suppress(sa.exc.SQLAlchemyError, OSError):
            async with self._database.transaction() as connection:
                is_ours = await outbox.hold(connection, self.tables, self._name, self._lease)
            # One that was over meanwhile is not continued: another replica may have had it in between.
            if is_ours and loop.time() < self._held_until:
                self._held_until = asked + self._lease

    async def _finish(self, published: Sequence[int]) -> None:
        """Delete the published rows, and release the lease."""
        # In one transaction: the next holder of the lease must not find rows that are published.
        async with self._database.transaction() as connection:
            await outbox.release(connection, self.tables, self._name)
            await outbox.remove(connection, self.tables, published)


def _on_confirm(
    number: int, errors: dict[int, BrokerError], confirms: PendingConfirms, error: BrokerError | None
) -> None:
    """Record the outcome of one row; an error of one does not end the wait for the others."""
    if error is not None:
        errors[number] = error
    confirms.resolve(None)
