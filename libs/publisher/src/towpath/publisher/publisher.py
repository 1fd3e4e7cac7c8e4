"""The publisher: publishes events and pushes, and reports each as confirmed or as an error.

Guarantees:

* :meth:`Publisher.publish` returns after RabbitMQ has confirmed the event: at least one queue has stored it.
* A lost connection is opened again, with full jitter, at the next host. Events without a confirm are then published
  again with the same ``msg_id``; services apply one ``msg_id`` of one sender (account and ``app_id``) once.
* At most ``max_waiting`` events of ``max_waiting_bytes`` wait for their confirms; further calls wait for room.
* Each call has a time limit, and each error names the reason (:mod:`~towpath.publisher.errors`).
"""

import asyncio
import contextlib
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from yarl import URL

from towpath.protocol.messages import MESSAGE_MAX_BYTES
from towpath.publisher import address
from towpath.publisher.driver import LOST, LoginRefused, reason_of
from towpath.publisher.errors import (
    BadEvent,
    BrokerBlocked,
    BrokerRefused,
    BrokerUnreachable,
    BufferFull,
    ExchangeMissing,
    NotConfirmed,
    PublisherClosed,
    PublisherError,
    QueueFull,
    Refused,
    Unroutable,
)
from towpath.publisher.link import ChannelRefused, Link, Lost, Nacked, NoExchange, Returned
from towpath.publisher.message import Event, Message, envelope_of, event_message, push_message
from towpath.publisher.room import Room
from towpath.publisher.tls import TlsFiles

#: For ``user_id``: the account of the URL.
OF_URL: Final = "(the account of the URL)"

_APP_ID_MAX: Final = 64
#: For TCP, TLS and login of one attempt.
_CONNECT_SECONDS: Final = 5.0
_FIRST_WAIT: Final = 0.2
_RETRY_MAX: Final = 2.0


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one event of :meth:`Publisher.publish_many`.

    Attributes:
        msg_id: Of the event; ``None`` if it is not an event.
        error: ``None`` if RabbitMQ has confirmed it.
    """

    msg_id: str | None
    error: PublisherError | None = None

    @property
    def ok(self) -> bool:
        """Whether RabbitMQ has confirmed it."""
        return self.error is None


class Publisher:
    """Publishes to one RabbitMQ. Use it as a context manager; one for the whole program is enough.

    Args:
        url: ``amqp://user:password@host:5672/vhost``, or ``amqps://``; several hosts of a cluster are separated by
            commas.
        app_id: The name of this program, 1 to 64 letters. With the account it is the sender: one ``msg_id`` of one
            sender is applied once, so keep it the same for all replicas and releases.
        user_id: The account that messages name, which RabbitMQ validates; by default that of ``url``. ``None`` to
            name none, for an account that RabbitMQ derives from a certificate or token.
        ca, certificate, key: Paths of PEM files for ``amqps://``: the authorities that RabbitMQ's certificate must
            come from (by default the system's), and this program's own certificate with its key.
        connect_timeout: Seconds that entering waits for the first connection; ``None`` to enter at once and connect
            in the background.
        timeout: Seconds that one publish may take, reconnects included.
        max_waiting, max_waiting_bytes: Events, and their bytes, that wait for their confirms at most.
        max_bytes: The largest event. RabbitMQ 4 accepts 16 MiB unless set otherwise, a service 8 MiB.
        reconnect_max: The longest wait between two rounds of attempts to connect, in seconds.
        heartbeat: Seconds between heartbeats. A connection without a sign of life is dropped 1.5 s after that.

    Raises:
        ValueError: An argument is not valid.
    """

    def __init__(
        self,
        url: str,
        *,
        app_id: str,
        user_id: str | None = OF_URL,
        ca: str | None = None,
        certificate: str | None = None,
        key: str | None = None,
        connect_timeout: float | None = 10.0,
        timeout: float = 30.0,
        max_waiting: int = 1_000,
        max_waiting_bytes: int = 16 * 1024 * 1024,
        max_bytes: int = MESSAGE_MAX_BYTES,
        reconnect_max: float = 5.0,
        heartbeat: int = 8,
    ) -> None:
        if not 1 <= len(app_id) <= _APP_ID_MAX:
            raise ValueError(f"app_id={app_id[:100]!r}: the name of this program, 1 to {_APP_ID_MAX} letters")
        bounds = {
            "timeout": timeout, "max_waiting": max_waiting, "max_waiting_bytes": max_waiting_bytes,
            "max_bytes": max_bytes, "reconnect_max": reconnect_max, "heartbeat": heartbeat,
        }  # fmt: skip
        for name, value in bounds.items():
            if not value > 0:
                raise ValueError(f"{name}={value!r}: must be more than 0")
        self._hosts = address.hosts(url)
        self._tls = TlsFiles(ca, certificate, key)
        if self._tls.any and self._hosts[0].scheme != "amqps":
            raise ValueError("certificates are named, but the address is not encrypted: use amqps://")
        self._app_id = app_id
        self._account = address.account(self._hosts[0]) if user_id == OF_URL else user_id
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._reconnect_max = reconnect_max
        self._heartbeat = heartbeat
        self._room = Room(max_waiting, max_waiting_bytes)
        self._link: Link | None = None
        self._usable = asyncio.Event()  # a link that is not blocked, or the end
        self._is_open = False
        self._problem = "not connected yet"
        self._refusal: BrokerRefused | None = None
        self._chance = random.Random()  # noqa: S311  # jitter
        self._connecting: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            BrokerRefused: Every host refuses the account, the virtual host or the certificate.
            BrokerUnreachable: No host answered within ``connect_timeout``.
        """
        if self._connecting is not None:
            raise PublisherClosed("this publisher was opened before: make another one")
        self._is_open = True
        self._connecting = asyncio.create_task(self._stay_connected())
        if self._connect_timeout is None:
            return self
        try:
            async with asyncio.timeout(self._connect_timeout):
                await self._usable.wait()
        except TimeoutError:
            if self._link is None:  # A blocked one is connected.
                await self._close()
                raise BrokerUnreachable(self._unreachable()) from None
        except BaseException:
            await self._close()
            raise
        if self._refusal is not None:
            await self._close()
            raise self._refusal
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close. Publishes that still wait get :class:`~towpath.publisher.errors.PublisherClosed`."""
        await self._close()

    async def connected(self) -> None:
        """Wait for the first connection, for a publisher that was entered without one.

        Raises:
            BrokerRefused: Every host refuses the account, the virtual host or the certificate.
        """
        while self._is_open and self._link is None and self._refusal is None:
            await self._usable.wait()
        if self._refusal is not None:
            raise self._refusal

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, and RabbitMQ accepts messages on it."""
        return self._link is not None and not self._link.blocked

    @property
    def problem(self) -> str | None:
        """Why nothing can be published right now; ``None`` if it can."""
        if self._link is None:
            return self._problem
        return "RabbitMQ accepts no messages (memory or disk alarm)" if self._link.blocked else None

    @property
    def waiting(self) -> int:
        """How many messages wait for their confirms."""
        return self._room.taken

    async def publish(
        self,
        event: Event | str,
        data: Mapping[str, Any] | None = None,
        *,
        msg_id: str | None = None,
        timeout: float | None = None,
    ) -> str:
        """Publish one event, and return its ``msg_id`` once RabbitMQ has confirmed it.

        Args:
            event: An envelope, or an action such as ``order.paid``, which is also the routing key.
            data: Of an action.
            msg_id: Of an action; a new one by default. Choose it yourself if the program may publish the same event
                again after a restart.
            timeout: Seconds for this call, instead of the publisher's.

        Raises:
            BadEvent, Unroutable, Refused, NotConfirmed: See :mod:`~towpath.publisher.errors`.
        """
        envelope = envelope_of(event, data, msg_id)
        await self.send(
            event_message(envelope, self._max_bytes), self._timeout if timeout is None else timeout
        )
        return envelope.msg_id

    async def publish_many(self, events: Iterable[Event], *, timeout: float | None = None) -> list[Result]:
        """Publish several events; their confirms are waited for together.

        They are sent in their order, and one that fails does not stop the others. After a lost connection some are
        published again behind later ones: events whose order matters even then belong into an outbox.

        Args:
            timeout: Seconds for all of them together, instead of the publisher's.

        Returns:
            A result for each event, in their order. No error of an event is raised.
        """
        until = asyncio.get_running_loop().time() + (self._timeout if timeout is None else timeout)
        results: list[Result] = []
        async with asyncio.TaskGroup() as tasks:
            for number, event in enumerate(events):
                try:
                    envelope = envelope_of(event)
                    message = event_message(envelope, self._max_bytes)
                except BadEvent as error:
                    results.append(Result(error.msg_id, error))
                    continue
                results.append(Result(envelope.msg_id))
                try:
                    # A task begins with its place, so events that are not sent yet cost no memory.
                    async with asyncio.timeout_at(until):
                        await self._room.take(len(message.body))
                except TimeoutError:
                    results[number] = Result(message.msg_id, self._late(message, "room"))
                    continue
                task = tasks.create_task(self._send_one(results, number, message, until))
                # Not in the task itself, which may be cancelled before it has begun.
                task.add_done_callback(partial(self._give_back, len(message.body)))
        return results

    async def push(
        self,
        user_id: str,
        event: Event | str,
        data: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
    ) -> str:
        """Push one envelope to all open connections of a user, and return its ``msg_id``.

        A push is not stored: a user without a connection does not get it, which is not an error.

        Raises:
            BadEvent, Refused, NotConfirmed: See :mod:`~towpath.publisher.errors`.
        """
        envelope = envelope_of(event, data)
        await self.send(push_message(user_id, envelope, self._max_bytes), timeout)
        return envelope.msg_id

    async def send(self, message: Message, timeout: float | None = None) -> None:
        """Publish a message that is made already, as :meth:`publish` does; for programs of this package."""
        until = asyncio.get_running_loop().time() + (self._timeout if timeout is None else timeout)
        size = len(message.body)
        try:
            async with asyncio.timeout_at(until):
                await self._room.take(size)
        except TimeoutError:
            raise self._late(message, "room") from None
        try:
            await self._send_until(message, until)
        finally:
            self._room.free(size)

    async def _send_one(self, results: list[Result], number: int, message: Message, until: float) -> None:
        try:
            await self._send_until(message, until)
        except PublisherError as error:
            results[number] = Result(message.msg_id, error)

    async def _send_until(self, message: Message, until: float) -> None:
        waits_for = _Waiting()
        try:
            async with asyncio.timeout_at(until):
                await self._until_confirmed(message, waits_for)
        except TimeoutError:
            raise self._late(message, waits_for.state) from None

    def _give_back(self, size: int, _: "asyncio.Task[None]") -> None:
        self._room.free(size)

    async def _until_confirmed(self, message: Message, waits_for: "_Waiting") -> None:
        alone = False
        for attempt in range(1_000_000):
            waits_for.state = "connection"
            link = await self._usable_link(message)
            waits_for.state = "confirm"
            try:
                await link.publish(message, alone=alone)
            except Returned:
                raise Unroutable(
                    f"no queue is bound to {message.routing_key!r} on {message.exchange!r}: no service on this "
                    "RabbitMQ handles it. Start the service, or correct the action",
                    msg_id=message.msg_id,
                ) from None
            except ChannelRefused as refused:
                if refused.is_certain:
                    raise Refused(
                        f"RabbitMQ does not accept {message.routing_key!r} on {message.exchange!r}: {refused}. "
                        "Grant the permission (`towpath broker setup --backend`), or correct the message",
                        msg_id=message.msg_id,
                    ) from None
                alone = True
            except (Nacked, NoExchange) as error:
                waits_for.state = "queue" if isinstance(error, Nacked) else "exchange"
                await self._pause(attempt)
            except Lost:
                if self._link is link:  # Its watcher has not seen it yet.
                    await self._pause(0)
            else:
                return

    async def _usable_link(self, message: Message) -> Link:
        while True:
            if self._refusal is not None:
                raise BrokerRefused(str(self._refusal), msg_id=message.msg_id)
            if not self._is_open:
                raise PublisherClosed(
                    "the publisher is not open: use `async with Publisher(…)`", msg_id=message.msg_id
                )
            link = self._link
            if link is not None and not link.blocked:
                return link
            await self._usable.wait()

    async def _pause(self, attempt: int) -> None:
        await asyncio.sleep(self._chance.uniform(0, min(_RETRY_MAX, _FIRST_WAIT * 2 ** min(attempt, 10))))

    def _late(self, message: Message, waits_for: str) -> NotConfirmed:
        what, again = (
            f"{message.routing_key!r} is not confirmed within its time limit",
            ("Publish it again with the same msg_id"),
        )
        if waits_for == "room":
            return BufferFull(
                f"{what}: {self._room.taken} messages wait for their confirms already. {again}, later, or allow more "
                "(max_waiting, max_waiting_bytes)",
                msg_id=message.msg_id,
            )
        if self._link is not None and self._link.blocked:
            return BrokerBlocked(
                f"{what}: RabbitMQ has a memory or disk alarm and accepts no messages. {again}, later",
                msg_id=message.msg_id,
            )
        if self._link is None:
            return BrokerUnreachable(f"{what}: {self._unreachable()}. {again}", msg_id=message.msg_id)
        if waits_for == "queue":
            return QueueFull(
                f"{what}: a queue for it is full, or has no leader. {again}, later", msg_id=message.msg_id
            )
        if waits_for == "exchange":
            return ExchangeMissing(
                f"{what}: the exchange {message.exchange!r} does not exist in this virtual host. Start Towpath on it "
                "once, or run `towpath broker setup`",
                msg_id=message.msg_id,
            )
        return NotConfirmed(
            f"{what}: RabbitMQ is connected and does not answer. {again}", msg_id=message.msg_id
        )

    def _unreachable(self) -> str:
        where = ", ".join(address.shown(host) for host in self._hosts)
        return f"no connection to RabbitMQ at {where}: {self._problem}"

    async def _stay_connected(self) -> None:
        """Open a link, hold it until it is lost, and open the next one; only a refusal at the start ends it.

        Hosts are tried round robin from a random one; between two rounds there is a wait with full jitter.
        """
        refusing: set[URL] = set()
        was_connected = False
        at = self._chance.randrange(len(self._hosts))
        failures = 0
        while True:
            host = self._hosts[at]
            at = (at + 1) % len(self._hosts)
            try:
                link = await self._open(host)
            except (*LoginRefused, ValueError) as error:
                self._problem = f"{address.shown(host)}: {reason_of(error)}"
                refusing.add(host)
                if not was_connected and refusing >= set(self._hosts):
                    self._refusal = BrokerRefused(
                        f"RabbitMQ does not accept this program: {self._problem}. Correct the address, the account "
                        "or the certificate files"
                    )
                    self._usable.set()
                    return
            except LOST as error:
                refusing.discard(host)
                self._problem = f"{address.shown(host)}: {reason_of(error)}"
            else:
                was_connected = True
                refusing.clear()
                held_from = asyncio.get_running_loop().time()
                await self._hold(link)
                if asyncio.get_running_loop().time() - held_from > self._reconnect_max:
                    failures = 0  # The next wait is a short one again.
            failures += 1
            rounds, within_round = divmod(failures, len(self._hosts))
            if not within_round:
                longest = min(self._reconnect_max, _FIRST_WAIT * 2 ** min(rounds, 10))
                await asyncio.sleep(self._chance.uniform(0, longest))

    async def _open(self, host: URL) -> Link:
        return await Link.open(
            host,
            app_id=self._app_id,
            account=self._account,
            tls=self._tls,
            heartbeat=self._heartbeat,
            timeout=_CONNECT_SECONDS,
        )

    async def _hold(self, link: Link) -> None:
        def on_change() -> None:
            if link.blocked:
                self._usable.clear()
            else:
                self._usable.set()

        self._link = link
        self._usable.set()
        try:
            self._problem = await link.watch(on_change)
        finally:
            self._link = None
            self._usable.clear()
            await link.close()

    async def _close(self) -> None:
        self._is_open = False
        if self._connecting is not None:
            self._connecting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._connecting
        self._usable.set()  # Publishes that wait see that it is closed.


class _Waiting:
    """The step that a publish waits for, so that an error can name it."""

    def __init__(self) -> None:
        self.state = "connection"
