"""Timers: periodic work of a service that no request causes.

No delivery causes it, so no redelivery repeats it. A timer writes its messages to the outbox, in the transaction of
its changes (:mod:`towpath.servicekit.storage.outbox`): they are published at least once if, and only if, it
commits. No lock is held while the broker is slow.

Guarantees: runs of one timer never overlap in a process; every replica runs its own. A failed run is logged and
repeated later, with growing pauses and full jitter. No run starts while the broker is disconnected or blocked. On
stop a run may finish within a moment.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.protocol.envelope import Envelope
from towpath.servicekit.broker.interface import Broker, BrokerState
from towpath.servicekit.handling.effects import EffectQueue, NoEffects
from towpath.servicekit.handling.outcome import Effect, Outcome, Push, outgoing
from towpath.servicekit.runtime.error_text import describe_error
from towpath.servicekit.storage import outbox
from towpath.servicekit.storage.database import Database
from towpath.servicekit.storage.relay import Relay

log = structlog.get_logger(__name__)

_LONGEST_PAUSE: Final = 30.0
#: Seconds that a run may continue after the stop.
_STOP_GRACE: Final = 1.0


class NoOutbox(Exception):
    """A timer publishes, but the service's storage has no outbox: set ``Storage.outbox``."""


@dataclass(frozen=True, slots=True)
class TimerRun:
    """The resources of one run of a timer.

    Attributes:
        database: Read with ``database.reading()``; write with :meth:`transaction`.
        relay: ``None`` if the service has no outbox: its timers publish nothing.
        connected_for: Seconds that this replica has been connected to the broker without a break. Silence of a peer
            proves something only within this time.
        effects: ``None`` if the service has none.

    Example:
        >>> from towpath.protocol.envelope import make
        >>> from towpath.servicekit import to_user
        >>> async def remind(run: TimerRun) -> bool:
        ...     async with run.transaction() as connection:
        ...         # … lock and update the rows that are due …
        ...         await run.publish(connection, [to_user("ana", make("order.reminder", {"order_id": "o-1"}))])
        ...     return False  # nothing more is due now
    """

    database: Database
    relay: Relay | None
    connected_for: float
    effects: EffectQueue | None = None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that may write and publish: its messages are published as soon as it is committed."""
        async with self.database.transaction() as connection:
            yield connection
        if self.relay is not None:
            self.relay.wake()
        if self.effects is not None:
            self.effects.wake()

    async def publish(
        self,
        connection: AsyncConnection,
        pushes: Sequence[Push] = (),
        *,
        events: Sequence[Envelope] = (),
        effects: Sequence[Effect] = (),
    ) -> None:
        """Publish pushes and events, in order, and make effects, if the transaction of ``connection`` commits.

        Lock the rows they report on first: then replicas publish changes in the order in which they happened.

        Raises:
            NoOutbox: The service's storage has no outbox.
            NoEffects, UnknownEffect: The service has no such effect.
        """
        if effects:
            if self.effects is None:
                raise NoEffects(f"a timer declares the effect {effects[0].name!r}: set Service.effects")
            await self.effects.put(connection, [(effect, "") for effect in effects])
        if not (pushes or events):
            return
        if self.relay is None:
            raise NoOutbox("a timer publishes: set an outbox in the service's Storage")
        await outbox.put(connection, self.relay.tables, outgoing(Outcome(pushes=pushes, events=events)))


@dataclass(frozen=True, slots=True)
class Timer:
    """Periodic work, on every replica of a service: runs of different replicas may overlap.

    Attributes:
        name: For logs.
        every: Seconds between two runs.
        run: One run, which must be a bounded step; returns whether there is more work to do at once. An
            exception is logged, and the run is repeated later.

    Example:
        >>> async def forget_old_drafts(run: TimerRun) -> bool:
        ...     return False
        >>> Timer("forget drafts", every=60.0, run=forget_old_drafts).every
        60.0
    """

    name: str
    every: float
    run: Callable[[TimerRun], Awaitable[bool]]


class BrokerUptime:
    """How long the broker has been connected without an observed break."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._begin()
        broker.on_rebuilt(self._begin)

    def seconds(self) -> float:
        """Seconds; 0 while the broker is disconnected or blocked."""
        now = asyncio.get_running_loop().time()
        if self._broker.state is not BrokerState.READY:
            self._since = now
        return now - self._since

    def _begin(self) -> None:
        self._since = asyncio.get_running_loop().time()


async def keep(
    timer: Timer,
    database: Database,
    relay: Relay | None,
    uptime: BrokerUptime,
    stop: asyncio.Event,
    effects: EffectQueue | None = None,
) -> None:
    """Run ``timer`` periodically until ``stop``."""
    repeating = _run_repeatedly(timer, database, relay, uptime, stop, effects)
    running = asyncio.create_task(repeating, name=timer.name)
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
        # Cancelling a run loses nothing: it is rolled back, and due again; committed messages are in the outbox.
        await asyncio.wait([running], timeout=_STOP_GRACE)
    finally:
        for task in (running, stopping):
            task.cancel()
        await asyncio.wait([running, stopping])
    if not running.cancelled():
        running.result()


async def _run_repeatedly(
    timer: Timer,
    database: Database,
    relay: Relay | None,
    uptime: BrokerUptime,
    stop: asyncio.Event,
    effects: EffectQueue | None,
) -> None:
    failures = 0
    while not stop.is_set():
        pause = timer.every
        try:
            # Not while the broker is away: the outbox would grow with every run of an outage.
            if (connected_for := uptime.seconds()) and await timer.run(
                TimerRun(database, relay, connected_for, effects)
            ):
                pause = 0.0
            failures = 0
        except Exception as error:
            failures += 1
            log.warning("timer_failed", timer=timer.name, failures=failures, error=describe_error(error, 300))
            # Jitter on top of `every`: replicas that failed together at one database do not retry together.
            longest = min(_LONGEST_PAUSE, timer.every * 2 ** min(failures, 16))
            pause = timer.every + random.uniform(0, longest)  # noqa: S311  # jitter
        # The wait is for `stop`, with the pause as its limit: a stopping program does not wait for the pause.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await stop.wait()
