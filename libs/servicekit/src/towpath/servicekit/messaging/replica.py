"""A replica of a service: replicas agree through the broker alone which of them consumes which queue.

Each replica announces its queues (``service.replica``), and takes and releases queues until each has its share
(:mod:`towpath.servicekit.messaging.assignment`). A queue is taken when no replica claims it and it has no consumer.

Guarantees:

* While the set of replicas does not change, no queue moves, and every queue has one consumer.
* A replica that stops, is killed or hangs is detected: it announces its stop, or its queues have no consumer for
  ``_VACANT_SECONDS``, or it is silent for ``_SILENT_SECONDS``. Other replicas take its queues.
* The announcements only decide which replica consumes; that no two consume at once is kept by the broker, as each
  queue has a single active consumer (https://www.rabbitmq.com/docs/consumers#single-active-consumer), and by the
  way a queue is released (:mod:`towpath.servicekit.messaging.intake`).
* The first replica does not wait; a later one waits for the others' announcements for ``_STARTUP_SECONDS``.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, Final

import structlog

from towpath.protocol.envelope import make, parse
from towpath.protocol.routes import EVENTS, SERVICE_REPLICA
from towpath.protocol.services import ServiceReplica
from towpath.servicekit.broker.interface import (
    Binding,
    Broker,
    BrokerError,
    Inbox,
    Message,
    Queue,
)
from towpath.servicekit.messaging.assignment import share
from towpath.servicekit.messaging.inboxes import PREFETCH, listen_on
from towpath.servicekit.messaging.intake import Intake
from towpath.servicekit.runtime.error_text import describe_error
from towpath.servicekit.runtime.loops import keep_running
from towpath.servicekit.runtime.telemetry import Telemetry

log = structlog.get_logger(__name__)

_ANNOUNCE_SECONDS: Final = 2.0
#: A replica that has announced nothing for this time no longer counts: three announcements, and a moment for a busy
#: machine.
_SILENT_SECONDS: Final = 6.5
#: A replica whose queues have had no consumer for this time counts as gone. Not at once: it may be reconnecting.
_VACANT_SECONDS: Final = 1.5
#: The longest wait for an announcement before the shares are computed again.
_STEP_SECONDS: Final = 0.5
#: Seconds between two checks of the consumers of other replicas' queues.
_COUNT_SECONDS: Final = 0.7
_STARTUP_SECONDS: Final = 1.0
#: A replica that has consumed nothing for this time gets no share: it cannot take queues, and they would have no
#: consumer. Longer than an intake takes to release a queue.
_IDLE_SECONDS: Final = 40.0
_TIMEOUT: Final = 5.0
#: Maximum number of other replicas that are remembered.
_MOST: Final = 1_000


class Replica:
    """One replica.

    Args:
        kinds: The queues, grouped by kind: each kind is shared evenly. The first are the partitions of the domain.
        prefetch: Maximum of unsettled deliveries per queue.
    """

    def __init__(
        self,
        broker: Broker,
        service: str,
        kinds: Sequence[Sequence[Queue]],
        telemetry: Telemetry,
        *,
        prefetch: int,
    ) -> None:
        self._broker = broker
        self._service = service
        self._kinds = kinds
        self._queues = {queue.name: queue for kind in kinds for queue in kind}
        self._prefetch = prefetch
        self.id = secrets.token_hex(8)
        self._others: dict[str, _Other] = {}
        self._changed = asyncio.Event()
        self._announced: set[str] | None = None
        self._announced_at = self._counted_at = 0.0
        self._releasing: dict[str, asyncio.Task[None]] = {}
        self._intake: Intake | None = None
        self._moves = telemetry.counter(
            "queues_moved", "Queues that this replica took from or left to another"
        )
        telemetry.gauge("queues_consumed", "Queues that this replica consumes", lambda: len(self.queues))
        telemetry.gauge(
            "replicas", "Replicas of this service, this one included", lambda: 1 + len(self._others)
        )
        telemetry.gauge(
            "partitions_unheld",
            "Partitions of the domain that no replica consumes, as far as this one knows",
            self._unheld,
        )
        broker.on_rebuilt(self._grant_time)

    @property
    def queues(self) -> set[str]:
        """The names of the queues that it consumes."""
        return set() if self._intake is None else self._intake.queues

    @contextlib.asynccontextmanager
    async def subscribe(self) -> AsyncIterator[Intake]:
        """Consume this replica's share of the queues from entry to exit.

        Raises:
            BrokerError: The broker refused at the start.
        """
        inbox = Inbox(name=f"{self._service}.replicas", bindings=[Binding(EVENTS, SERVICE_REPLICA)])
        async with contextlib.AsyncExitStack() as stack:
            # Consumed before this replica announces itself, so that it misses no answer to that; and left last: the
            # stop is announced once the intake below is closed and its deliveries are settled or requeued.
            announcements = await stack.enter_async_context(self._broker.subscribe(inbox, prefetch=PREFETCH))
            stack.push_async_callback(self._announce, leaves=True)
            self._intake = await stack.enter_async_context(Intake.open(self._broker, self._prefetch))
            loops: list[asyncio.Task[Any]] = [
                asyncio.create_task(
                    keep_running(
                        "announcements of replicas",
                        partial(listen_on, announcements, self._on_announcement),
                        pause=1.0,
                    )
                )
            ]
            try:
                await self._begin()
                loops.append(asyncio.create_task(keep_running("share queues", self._step, pause=0.0)))
                yield self._intake
            finally:
                loops += self._releasing.values()
                for loop in loops:
                    loop.cancel()
                await asyncio.gather(*loops, return_exceptions=True)

    # Other replicas

    def _on_announcement(self, item: bytes) -> None:
        announced = ServiceReplica.model_validate(parse(item).data)
        if announced.service != self._service or announced.replica == self.id:
            return
        # A clean stop: its queues may be taken at once, as it has settled or requeued everything (see `subscribe`).
        if announced.leaves:
            self._others.pop(announced.replica, None)
            log.info("replica_left", replica=announced.replica)
        else:
            other = self._others.get(announced.replica)
            if other is None:
                if len(self._others) >= _MOST:  # Forged: no service has that many.
                    return
                other = self._others[announced.replica] = _Other()
                self._announced = None  # Announce again: the new replica does not know this replica's queues.
                log.info("replica_joined", replica=announced.replica)
            now = _now()
            # Unknown names are ignored: a replica of a newer version may have more queues, and this one cannot
            # consume them.
            other.queues = {name for name in announced.queues if name in self._queues}
            other.announced_at = now
            if other.queues:
                other.consumed_at = now
        self._changed.set()

    def _grant_time(self) -> None:
        """After a lost link, restart the time limits: the silence says nothing about the other replicas."""
        now = _now()
        for other in self._others.values():
            other.announced_at, other.vacant_since = now, None

    async def _forget_gone(self) -> None:
        """Forget replicas that are silent, or whose queues have had no consumer for a while."""
        now = _now()
        if not self._others or now - self._counted_at < _COUNT_SECONDS:
            return
        self._counted_at = now
        claimed = sorted({name for other in self._others.values() for name in other.queues})
        counts: dict[str, int] = {}
        with contextlib.suppress(BrokerError):
            # A killed replica announces no end, but RabbitMQ closes its connections, and with them its consumers:
            # faster than three missed announcements.
            counts = await self._broker.consumers(*claimed)
        for replica, other in list(self._others.items()):
            # A queue that was not counted, because the broker did not answer, has a consumer as far as is known.
            is_vacant = bool(other.queues) and not any(counts.get(name, 1) for name in other.queues)
            if not is_vacant:
                other.vacant_since = None
            # Not gone yet: after a lost connection a replica has no consumers for a moment either.
            elif other.vacant_since is None:
                other.vacant_since = now
            vacant_for = 0.0 if other.vacant_since is None else now - other.vacant_since
            if now - other.announced_at > _SILENT_SECONDS or vacant_for >= _VACANT_SECONDS:
                del self._others[replica]
                log.warning("replica_gone", replica=replica, queues=len(other.queues))

    # This replica

    async def _begin(self) -> None:
        """Take the first share, once the other replicas have announced theirs or the time is over."""
        # Before anything is taken: the others answer with what they consume, and count this replica.
        await self._announce()
        # No consumer anywhere: this is the first replica, and there is no announcement to wait for.
        if any((await self._broker.consumers(*self._queues)).values()):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STARTUP_SECONDS):
                    # Enough is known once every queue is claimed: then shares need no guess.
                    while not self._all_claimed():
                        self._changed.clear()
                        await self._changed.wait()
        await self._share()

    def _unheld(self) -> int:
        held = self.queues.union(*(other.queues for other in self._others.values()))
        return sum(queue.name not in held for queue in self._kinds[0])

    def _all_claimed(self) -> bool:
        claimed = set().union(*(other.queues for other in self._others.values()))
        return claimed >= self._queues.keys()

    async def _step(self) -> None:
        """Wait for an announcement or a moment, then update the share."""
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STEP_SECONDS):
                await self._changed.wait()
        await self._forget_gone()
        await self._share()

    async def _share(self) -> None:
        """Release queues of other replicas' shares, take those of this one's share, and announce the change."""
        intake = self._intake
        assert intake is not None
        mine = self._own_share()
        # First release, then take: an announcement after both names what this replica consumes now.
        for name in sorted(intake.queues - mine - self._releasing.keys()):
            self._releasing[name] = asyncio.create_task(self._release(intake, name), name=f"release {name}")
        # A queue that another replica claims is not taken, also if it is in this one's share: its holder releases it
        # first, and says so in an announcement.
        claimed = set().union(*(other.queues for other in self._others.values()))
        for name in sorted(mine - intake.queues - claimed):
            try:
                async with asyncio.timeout(_TIMEOUT):
                    # A hanging replica announces nothing, but its connection is still open. A consumer that waited
                    # behind it in RabbitMQ would start while the hanging replica still has unsettled deliveries, as
                    # soon as that replica continues and releases the queue.
                    if (await self._broker.consumers(name))[name]:
                        continue
                    await intake.take(self._queues[name])
            except (BrokerError, TimeoutError) as error:
                log.warning("queue_not_taken", queue=name, error=describe_error(error, 300))
                # The broker is away, or slow: the next step tries again, and what was taken before is announced now.
                break
            self._moves.add(1)
        # At once after a change, so that the other replica takes what was released; else as a sign of life.
        if intake.queues != self._announced or _now() - self._announced_at >= _ANNOUNCE_SECONDS:
            await self._announce()

    async def _release(self, intake: Intake, name: str) -> None:
        try:
            # Two replicas may have taken the queue at the same moment: then one of them waits in RabbitMQ as its
            # next consumer.
            is_contested = any(name in other.queues for other in self._others.values())
            await intake.release(name, is_contested=is_contested)
            self._moves.add(1)
        finally:
            del self._releasing[name]
            self._changed.set()

    def _own_share(self) -> set[str]:
        idle = _now() - _IDLE_SECONDS
        # Without the replicas that have consumed nothing for long: a share would have no consumer there.
        claims = {
            replica: other.queues for replica, other in self._others.items() if other.consumed_at >= idle
        }
        claims[self.id] = self.queues
        mine: set[str] = set()
        for number, kind in enumerate(self._kinds):
            # Every replica computes the same from the same announcements, so no vote is needed. Odd kinds give their
            # surplus to other replicas than even ones: the queue of events goes where commands are fewer.
            shares = share([queue.name for queue in kind], claims, surplus_last=number % 2 == 1)
            mine |= {name for name, replica in shares.items() if replica == self.id}
        return mine

    async def _announce(self, *, leaves: bool = False) -> None:
        queues = set() if leaves else self.queues
        data = ServiceReplica(
            service=self._service, replica=self.id, queues=sorted(queues), leaves=leaves
        ).model_dump()
        message = Message(
            body=make(SERVICE_REPLICA, data).to_json(),
            # An announcement is worth two seconds: nothing is to survive a restart of the broker.
            persistent=False,
            type="envelope",
            app_id=self._service,
        )
        try:
            await self._broker.publish(EVENTS, SERVICE_REPLICA, message, timeout=_TIMEOUT)
        except BrokerError:
            return  # The next announcement has the same content; a stopping replica is detected without it.
        self._announced, self._announced_at = queues, _now()


class _Other:
    """The known state of another replica.

    Attributes:
        queues: The queues that it announces to consume.
        announced_at: Loop time of its last announcement.
        consumed_at: Loop time of its last announcement with queues; initially of the first announcement.
        vacant_since: Loop time since which none of its queues has had a consumer; ``None`` while one has.
    """

    def __init__(self) -> None:
        self.queues: set[str] = set()
        self.announced_at = self.consumed_at = _now()
        self.vacant_since: float | None = None


def _now() -> float:
    return asyncio.get_running_loop().time()
