"""Unpublishable messages: parked in the service's dead queue, or dropped, so that they block no later message.

Guarantees:

* Once the message is parked or dropped, its callback is called as if the broker had confirmed it. Only if the broker
  is disconnected is the callback called with that error, and the message is published again later.
* It is parked with the reason ``unpublishable`` and its exchange and routing key; of a body that is too large, only
  the first KiB. If it cannot be parked, it is dropped with a log line.
* The number and bytes of messages that wait to be parked are bounded; past the bound they are dropped.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import structlog

from towpath.protocol.envelope import now_ms
from towpath.protocol.routes import dead_queue
from towpath.servicekit.broker.interface import (
    Broker,
    BrokerBlocked,
    BrokerError,
    BrokerUnavailable,
    HeaderValue,
    Message,
    PublishUnconfirmed,
    Unpublishable,
)
from towpath.servicekit.messaging.dead_letters import (
    ERROR,
    FIRST_FAILED_AT,
    REASON,
    ROUTING_KEY,
    TRUNCATED_BYTES,
)
from towpath.servicekit.messaging.lanes import OnConfirm
from towpath.servicekit.runtime.telemetry import Telemetry

log = structlog.get_logger(__name__)

EXCHANGE: Final = "x-exchange"
UNPUBLISHABLE: Final = "unpublishable"

_WAITING_MAX: Final = 1_000
_WAITING_MAX_BYTES: Final = 64 * 1024 * 1024
_ERROR_LETTERS: Final = 500
#: The broker may have the message, or be back soon: then the publisher retries.
_AWAY: Final = (BrokerUnavailable, BrokerBlocked, PublishUnconfirmed)

_Refused = tuple[str, str, bytes, int, Unpublishable, OnConfirm]


class UnpublishableParker:
    """Parks unpublishable messages; created with :meth:`open`."""

    def __init__(self, broker: Broker, service: str, telemetry: Telemetry) -> None:
        self._broker = broker
        self._service = service
        self._waiting: asyncio.Queue[_Refused] = asyncio.Queue(_WAITING_MAX)
        self._bytes = 0
        self._parked = telemetry.counter(
            "messages_unpublishable", "Messages that no broker takes, parked", {"how": "parked"}
        )
        self._dropped = telemetry.counter(
            "messages_unpublishable", "Messages that no broker takes, dropped", {"how": "dropped"}
        )

    @classmethod
    @asynccontextmanager
    async def open(
        cls, broker: Broker, service: str, telemetry: Telemetry
    ) -> AsyncIterator["UnpublishableParker"]:
        """A running instance; on exit waiting messages fail as not published."""
        undertaker = cls(broker, service, telemetry)
        working = asyncio.create_task(undertaker._run(), name=f"{service}: park what cannot be published")
        try:
            yield undertaker
        finally:
            working.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await working
            while not undertaker._waiting.empty():
                undertaker._waiting.get_nowait()[-1](BrokerUnavailable("the program stops"))

    def take(
        self, exchange: str, routing_key: str, body: bytes, error: Unpublishable, on_confirm: OnConfirm
    ) -> None:
        """Park one message; ``on_confirm`` is called later, never within this call."""
        size = len(body)
        if error.of_content:
            body = body[:TRUNCATED_BYTES]
        if (self._bytes and self._bytes + len(body) > _WAITING_MAX_BYTES) or self._waiting.full():
            self._drop(exchange, routing_key, size, error, "too much waits to be parked")
            asyncio.get_running_loop().call_soon(on_confirm, None)
            return
        self._bytes += len(body)
        self._waiting.put_nowait((exchange, routing_key, body, size, error, on_confirm))

    async def _run(self) -> None:
        while True:
            exchange, routing_key, body, size, error, on_confirm = await self._waiting.get()
            away: BrokerError | None = None
            try:
                away = await self._park(exchange, routing_key, body, size, error)
            except asyncio.CancelledError:
                on_confirm(BrokerUnavailable("the program stops"))
                raise
            except Exception as another:
                self._drop(exchange, routing_key, size, error, repr(another)[:200])
            finally:
                self._bytes -= len(body)
            on_confirm(away)

    async def _park(
        self, exchange: str, routing_key: str, body: bytes, size: int, error: Unpublishable
    ) -> BrokerError | None:
        dead = dead_queue(self._service)
        headers: dict[str, HeaderValue] = {
            REASON: UNPUBLISHABLE,
            ERROR: str(error).encode("utf-8", "replace").decode()[:_ERROR_LETTERS],
            FIRST_FAILED_AT: now_ms(),
            EXCHANGE: _text(exchange),
            ROUTING_KEY: _text(routing_key),
        }
        for kept in (body, body[:TRUNCATED_BYTES]):
            message = Message(body=kept, type="failed", app_id=self._service, headers=headers)
            try:
                await self._broker.publish(dead, dead, message, mandatory=True)
            except Unpublishable as again:
                if len(kept) > TRUNCATED_BYTES:
                    continue
                self._drop(exchange, routing_key, size, error, str(again))
            except _AWAY as away:
                return away
            except BrokerError as again:
                self._drop(exchange, routing_key, size, error, str(again))
            else:
                self._parked.add(1)
                log.error(
                    "unpublishable_parked",
                    exchange=exchange,
                    routing_key=routing_key[:100],
                    bytes=size,
                    kept=len(kept),
                    error=str(error)[:300],
                )
            return None
        return None

    def _drop(self, exchange: str, routing_key: str, size: int, error: Unpublishable, why: str) -> None:
        self._dropped.add(1)
        log.error(
            "unpublishable_dropped",
            exchange=exchange,
            routing_key=routing_key[:100],
            bytes=size,
            error=str(error)[:300],
            not_parked=why[:200],
        )


def _text(word: str) -> str:
    return word.encode("utf-8", "replace").decode()[:255]
