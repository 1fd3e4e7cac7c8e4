"""Inboxes of services: announcements and session events, which any publisher of events may make many."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from towpath.servicekit.messaging.inboxes import listen_on


class DeliveryStub:
    queue = "inbox"

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.acked = 0

    def ack(self) -> None:
        self.acked += 1


async def listen_to(deliveries: list[DeliveryStub], handle: Any) -> int:
    """How often other tasks ran meanwhile."""

    async def subscription() -> AsyncIterator[Any]:
        for delivery in deliveries:  # all are there: asking for the next one does not wait
            yield delivery

    deliver: Any = subscription()  # the part of a subscription that is used
    listening = asyncio.ensure_future(listen_on(deliver, handle))
    iterations = 0
    while not listening.done():
        await asyncio.sleep(0)
        iterations += 1
    await listening
    return iterations


async def test_other_tasks_run_however_many_items_have_arrived() -> None:
    heard: list[int] = []

    def handle(item: bytes) -> None:
        heard.append(sum(range(2_000)) and len(item))

    deliveries = [DeliveryStub(b"[" + b",".join([b"{}"] * 1_000) + b"]") for _ in range(10)]
    iterations = await listen_to(deliveries, handle)
    assert len(heard) == 10_000
    assert iterations >= 10  # 10,000 items of 20 µs and more
    assert {delivery.acked for delivery in deliveries} == {1}


async def test_a_body_that_cannot_be_read_is_acked_and_affects_no_other() -> None:
    heard: list[bytes] = []

    def handle(item: bytes) -> None:
        if item == b"1":
            raise ValueError("no object")
        heard.append(item)

    deliveries = [DeliveryStub(body) for body in (b"{", b"[1,{}]", b"\xff", b'{"a":1}')]
    await listen_to(deliveries, handle)
    assert heard == [b'{"a":1}']
    assert {delivery.acked for delivery in deliveries} == {1}
