"""Final answers as services publish them, and commands as they park them: seen on the broker."""

import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aio_pika
from aio_pika.abc import AbstractIncomingMessage


@dataclass(slots=True)
class Answers:
    """An answer.

    Attributes:
        finals: For each ``msg_id``, how many final answers.
        internal: How many of them were ``internal``.
    """

    finals: Counter[str] = field(default_factory=Counter)
    internal: Counter[str] = field(default_factory=Counter)

    def note(self, body: bytes) -> None:
        """Count what is in a message to a gateway."""
        items = json.loads(body)
        for item in items if isinstance(items, list) else [items]:
            envelope = item.get("envelope", {})
            if (asked := envelope.get("correlation_id")) is not None:
                self.finals[asked] += 1
                if envelope["action"] == "error" and envelope["data"]["code"] == "internal":
                    self.internal[asked] += 1


@contextlib.asynccontextmanager
async def all_answers(url: str) -> AsyncIterator[Answers]:
    """All answers from entry to exit."""
    answers = Answers()
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(await channel.get_exchange("towpath.push", ensure=False), "connection.#")

        async def note(message: AbstractIncomingMessage) -> None:
            answers.note(message.body)

        await queue.consume(note, no_ack=True)
        yield answers


@dataclass(frozen=True, slots=True)
class Parked:
    """One message in a dead queue."""

    msg_id: str
    headers: dict[str, Any]


async def all_parked(url: str, service: str) -> list[Parked]:
    """The parked messages of a service; they remain parked."""
    found: list[Parked] = []
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        queue = await channel.get_queue(f"{service}.dead", ensure=False)
        while (message := await queue.get(fail=False)) is not None:  # given back with the connection
            body = json.loads(message.body)
            found.append(Parked(body.get("envelope", body)["msg_id"], dict(message.headers)))
    return found
