"""Another backend: publishes to the broker, with confirms, what is to reach people."""

import contextlib
from collections.abc import AsyncIterator
from typing import Final

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractExchange

from bench.dialects import Publication

_CONFIRM_SECONDS: Final = 30.0


class Backend:
    """A connection of its own; made with :meth:`open`."""

    def __init__(self, channel: AbstractChannel) -> None:
        self._channel = channel
        self._exchanges: dict[str, AbstractExchange] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, amqp_url: str) -> AsyncIterator["Backend"]:
        """Connect."""
        async with await aio_pika.connect(amqp_url) as connection:
            yield cls(await connection.channel(publisher_confirms=True))

    async def publish(self, publication: Publication) -> None:
        """Publish one message; RabbitMQ has it when this returns."""
        name = publication.exchange
        if name not in self._exchanges:
            self._exchanges[name] = await self._channel.get_exchange(name)
        message = aio_pika.Message(publication.body, content_type=publication.content_type)
        await self._exchanges[name].publish(
            message, publication.routing_key, mandatory=False, timeout=_CONFIRM_SECONDS
        )
