"""The relay: waits to be the active one, then moves rows from the outbox to RabbitMQ until it is stopped."""

import asyncio
import contextlib
import json
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from towpath.protocol import routes
from towpath.protocol.envelope import BARE_ACTIONS, VERSION, check
from towpath.protocol.errors import TowpathError
from towpath.publisher.errors import NotConfirmed, Refused, Unroutable
from towpath.publisher.message import Message
from towpath.publisher.publisher import Publisher
from towpath.publisher.relay.database import UNREACHABLE, Outbox, Row, State
from towpath.publisher.relay.lines import Lines
from towpath.publisher.relay.settings import RelaySettings

log = logging.getLogger(__name__)

_STATE_SECONDS: Final = 5.0
_LOG_SECONDS: Final = 60.0
_UNROUTABLE_WAIT: Final = 2.0
_REASON_LETTERS: Final = 1_000


@dataclass
class Progress:
    """The numbers of the admin pages.

    Attributes:
        active: Whether this relay has the lock.
        database: Whether PostgreSQL answered last.
        published, parked, repeated: Events so far; repeated are those not confirmed at the first attempt.
        held: Rows in memory.
        state: Of the table, when this relay is the active one.
    """

    active: bool = False
    database: bool = False
    published: int = 0
    parked: int = 0
    repeated: int = 0
    held: int = 0
    state: State = field(default_factory=lambda: State(0, 0.0))


class Relay:
    """One relay; see :mod:`towpath.publisher.relay`."""

    def __init__(self, settings: RelaySettings, publisher: Publisher) -> None:
        self._settings = settings
        self._publisher = publisher
        self._chance = random.Random()  # noqa: S311  # jitter
        self._logged: dict[str, float] = {}
        self._wake = asyncio.Event()
        self._notified = False
        self.progress = Progress()

    async def run(self, stop: asyncio.Event) -> None:
        """Relay until ``stop`` is set; a lost database is waited for.

        Raises:
            BadSetting: PostgreSQL refuses this program.
            OutboxMissing: The database has no outbox.
        """
        failures = 0
        while not stop.is_set():
            try:
                outbox = await Outbox.open(self._settings)
            except UNREACHABLE as error:
                failures += 1
                log.warning("database_unreachable: %s", _reason(error))
                longest = min(self._settings.reconnect_max, 0.2 * 2 ** min(failures, 10))
                await _unless(stop, self._chance.uniform(0, longest))
                continue
            failures = 0
            try:
                await self._use(outbox, stop)
            except UNREACHABLE as error:
                log.warning("database_lost: %s", _reason(error))
            finally:
                self.progress.active = self.progress.database = False
                await outbox.close()

    async def _use(self, outbox: Outbox, stop: asyncio.Event) -> None:
        await outbox.check()
        self.progress.database = True
        while not await outbox.become_active():
            await _unless(stop, self._settings.relay_poll)
            if stop.is_set():
                return
        self.progress.active = True
        log.info("relay_active")
        await outbox.listen(self._on_notification)
        lines = Lines(self._publish, self._wake.set)
        waking = asyncio.create_task(self._wake_when_over(outbox, stop))
        try:
            await self._move(outbox, lines, stop)
            await lines.finish(self._settings.drain_timeout)
            await self._settle(outbox, lines)
        finally:
            waking.cancel()
            await lines.cancel()
            self.progress.held = 0

    def _on_notification(self) -> None:
        self._notified = True
        self._wake.set()

    async def _wake_when_over(self, outbox: Outbox, stop: asyncio.Event) -> None:
        ends = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(outbox.lost.wait())]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            self._wake.set()
        finally:
            for end in ends:
                end.cancel()

    async def _move(self, outbox: Outbox, lines: Lines, stop: asyncio.Event) -> None:
        now = asyncio.get_running_loop().time
        poll_at = show_at = now()
        while not stop.is_set():
            if outbox.lost.is_set():
                raise ConnectionError("the connection to PostgreSQL ended")
            await self._settle(outbox, lines)
            if self._has_room(lines) and (self._notified or lines.may_have_more or now() >= poll_at):
                await self._look(outbox, lines)
                poll_at = now() + self._settings.relay_poll
            if now() >= show_at:
                self.progress.state = await outbox.state()
                show_at = now() + _STATE_SECONDS
            if not (self._has_room(lines) and (self._notified or lines.may_have_more)):
                await self._woken(min(poll_at, show_at) - now())

    def _has_room(self, lines: Lines) -> bool:
        """Whether half of the places are free: a look costs a query."""
        batch, size = self._settings.relay_batch, self._settings.relay_batch_bytes
        return len(lines.held) <= batch // 2 and lines.bytes <= size // 2

    async def _look(self, outbox: Outbox, lines: Lines) -> None:
        count = self._settings.relay_batch - len(lines.held)
        size = self._settings.relay_batch_bytes - lines.bytes
        self._notified = False  # Before the query, which may not see what is committed meanwhile.
        lines.look()
        rows = await outbox.next_rows(lines.held, lines.blocked, count, size)
        for row in rows:
            lines.add(row)
        if len(rows) == count or sum(len(row.data) for row in rows) > size // 2:
            lines.may_have_more = True
        self.progress.held = len(lines.held)

    async def _settle(self, outbox: Outbox, lines: Lines) -> None:
        confirmed, parked = lines.settled()
        if confirmed:
            await outbox.delete(confirmed)
        if parked:
            await outbox.park(parked)
        lines.done(confirmed, parked)
        self.progress.published += len(confirmed)
        self.progress.parked += len(parked)
        self.progress.held = len(lines.held)
        for number, reason in parked.items():
            log.error("event_parked: row %d: %s", number, reason)

    async def _publish(self, row: Row, on_failure: Callable[[], None]) -> str | None:
        """Publish a row until it is confirmed, or return the reason to park it."""
        try:
            message = _message(row, self._settings.message_max_bytes)
        except ValueError as error:
            return str(error)[:_REASON_LETTERS]
        now = asyncio.get_running_loop().time
        park_at = now() + self._settings.relay_unroutable
        while True:
            try:
                await self._publisher.send(message, self._settings.publish_timeout)
            except Unroutable as error:
                if now() >= park_at:
                    return str(error)[:_REASON_LETTERS]
                on_failure()
                # A service declares a queue that was deleted again within 15 s.
                await asyncio.sleep(self._chance.uniform(0, _UNROUTABLE_WAIT))
            except Refused as error:
                return str(error)[:_REASON_LETTERS]
            except NotConfirmed as error:
                on_failure()
                park_at = now() + self._settings.relay_unroutable
                self._log_at_times(error)
            else:
                return None
            self.progress.repeated += 1

    def _log_at_times(self, error: NotConfirmed) -> None:
        """Log a kind of error once a minute: while RabbitMQ is away each row has it."""
        kind, now = type(error).__name__, asyncio.get_running_loop().time()
        if now - self._logged.get(kind, -_LOG_SECONDS) >= _LOG_SECONDS:
            self._logged[kind] = now
            log.warning("not_confirmed: %s", error)

    async def _woken(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._wake.wait()
        self._wake.clear()


def _message(row: Row, max_bytes: int) -> Message:
    """The event of a row. Its data is not decoded, so numbers keep all their digits.

    Raises:
        ValueError: It is not an event, as a row may be that was not added by ``towpath_publish``.
    """
    head = {"msg_id": row.msg_id, "timestamp": row.timestamp, "action": row.action, "version": VERSION}
    body = f'{json.dumps(head)[:-1]}, "data": {row.data}}}'.encode()
    try:
        check(body)
    except TowpathError as error:
        raise ValueError(f"the row is not an event: {error}") from None
    if row.action in BARE_ACTIONS:
        raise ValueError(f"the row is not an event: {row.action!r} is not domain.verb")
    if len(body) > max_bytes:
        raise ValueError(
            f"the event has {len(body)} bytes; at most {max_bytes} are published (TOWPATH_MESSAGE_MAX_BYTES)"
        )
    return Message(exchange=routes.EVENTS, routing_key=row.action, body=body, msg_id=row.msg_id)


async def _unless(stop: asyncio.Event, seconds: float) -> None:
    """Wait for ``seconds``, or until ``stop``."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()


def _reason(error: BaseException) -> str:
    # Of PostgreSQL the first line only: the rest may quote values.
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:300]
