"""Unpublishable messages (too large, no such exchange, no permission), kept until they are parked in the dead queue.

Guarantees:

* An unpublishable message blocks no later one. Once it is parked or dropped, its callback is called as if the broker
  had confirmed it. Only if the broker is disconnected is the callback called with that error: then the message is
  published again later, and refused again.
* It is dropped, with a log line, only if it cannot be parked or too much waits to be parked.
* The number and bytes of messages that wait are bounded: clients that cause only such messages must not fill the
  memory of the service.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import structlog

from towpath.servicekit.broker.interface import (
    BrokerBlocked,
    BrokerError,
    BrokerUnavailable,
    PublishUnconfirmed,
    Unpublishable,
)
from towpath.servicekit.messaging.lanes import OnConfirm
from towpath.servicekit.runtime.telemetry import Telemetry

log = structlog.get_logger(__name__)

_WAITING_MAX: Final = 1_000
_WAITING_MAX_BYTES: Final = 64 * 1024 * 1024
#: The broker may have the message, or be back soon.
_DISCONNECTED: Final = (BrokerUnavailable, BrokerBlocked, PublishUnconfirmed)


@dataclass(frozen=True, slots=True)
class Refused:
    """A message that no broker accepts.

    Attributes:
        body: The part of it to park.
        size: Bytes of the whole body.
        error: Why the broker does not accept it.
        on_confirm: The publisher's callback.
    """

    exchange: str
    routing_key: str
    body: bytes
    size: int
    error: Unpublishable
    on_confirm: OnConfirm


class UnpublishableQueue:
    """Messages that wait to be parked, one after the other; see :meth:`running`.

    Args:
        park: Publishes one message to the dead queue, and returns the bytes of its body that were kept.
    """

    def __init__(self, park: Callable[[Refused], Awaitable[int]], telemetry: Telemetry) -> None:
        self._park = park
        self._waiting: asyncio.Queue[Refused] = asyncio.Queue(_WAITING_MAX)
        self._bytes = 0
        self._parked, self._dropped = (
            telemetry.counter(
                "messages_unpublishable",
                "Messages that no broker takes, by what became of them",
                {"how": how},
            )
            for how in ("parked", "dropped")
        )

    @asynccontextmanager
    async def running(self, title: str) -> AsyncIterator[None]:
        """Park messages from entry to exit; those that wait at the exit fail as unpublished."""
        parking = asyncio.create_task(self._run(), name=title)
        try:
            yield
        finally:
            parking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await parking
            while not self._waiting.empty():
                self._waiting.get_nowait().on_confirm(BrokerUnavailable("the program stops"))

    def put(self, refused: Refused) -> None:
        """Park ``refused`` soon; its callback is called later, never within this call."""
        # Dropped at a bound, and not kept waiting: the messages behind this one are good, and their senders wait.
        # The log line and `messages_unpublishable` show the loss.
        if (self._bytes and self._bytes + len(refused.body) > _WAITING_MAX_BYTES) or self._waiting.full():
            self._drop(refused, "too much waits to be parked")
            # Not within this call: callers count the message as expected only after they have posted it.
            asyncio.get_running_loop().call_soon(refused.on_confirm, None)
            return
        self._bytes += len(refused.body)
        self._waiting.put_nowait(refused)

    async def _run(self) -> None:
        while True:
            refused = await self._waiting.get()
            result: BrokerError | None = None
            try:
                kept = await self._park(refused)
            except asyncio.CancelledError:
                refused.on_confirm(BrokerUnavailable("the program stops"))
                raise
            except _DISCONNECTED as error:
                # The publisher publishes the message again later, and the broker refuses it again: it is parked then.
                result = error
            except BrokerError as error:
                self._drop(refused, str(error))
            except Exception as error:  # This loop must not end: later messages would never be reported.
                self._drop(refused, repr(error))
            else:
                self._parked.add(1)
                _log("unpublishable_parked", refused, kept=kept)
            finally:
                self._bytes -= len(refused.body)
            # `None` also if it was dropped: after an error the caller would publish it again, for the same refusal.
            refused.on_confirm(result)

    def _drop(self, refused: Refused, why: str) -> None:
        self._dropped.add(1)
        _log("unpublishable_dropped", refused, not_parked=why[:200])


def _log(event: str, refused: Refused, **more: Any) -> None:
    log.error(
        event,
        exchange=refused.exchange,
        routing_key=refused.routing_key[:100],
        bytes=refused.size,
        error=str(refused.error)[:300],
        **more,
    )
