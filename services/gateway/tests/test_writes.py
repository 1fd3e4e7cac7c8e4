"""Writes: frames of one loop iteration are written together and in order, and their number is bounded."""

import asyncio

from towpath.gateway.websocket.writes import MOST, Writes
from towpath.protocol.envelope import make
from towpath.protocol.routes import connection_key, user_key
from towpath.testkit.gateway import Backend, GatewayUnderTest


class WriterStub:
    """A connection that counts its calls of ``write_out``."""

    def __init__(self) -> None:
        self.written = 0

    def write_out(self) -> None:
        self.written += 1


async def test_buffered_frames_are_written_once_when_the_iteration_ends() -> None:
    writes, writers = Writes(), [WriterStub() for _ in range(3)]
    for writer in writers:
        writes.add(writer)
    assert not any(writer.written for writer in writers)
    await asyncio.sleep(0)
    assert [writer.written for writer in writers] == [1, 1, 1]


async def test_a_push_to_many_does_not_wait_for_the_end_of_the_iteration() -> None:
    writes, writers = Writes(), [WriterStub() for _ in range(MOST + 1)]
    for writer in writers:
        writes.add(writer)
    assert [writer.written for writer in writers] == [1] * MOST + [0]
    await asyncio.sleep(0)
    assert [writer.written for writer in writers] == [1] * (MOST + 1)


async def test_frames_of_one_batch_arrive_in_order_and_before_the_close_that_follows(
    gateway: GatewayUnderTest, backend: Backend
) -> None:
    async with gateway.connect("ana") as ana:
        welcome = await ana.find(lambda frame: frame["action"] == "session.welcome")
        who = welcome["data"]["connection_id"]
        items: list[dict[str, object]] = [
            {
                "connection_id": who,
                "envelope": make("test.pushed", {"n": number}).model_dump(exclude_none=True),
            }
            for number in range(50)
        ]
        await backend.push(user_key("ana"), make("test.pushed", {"n": -1}).model_dump(exclude_none=True))
        items.append({"connection_id": who, "disconnect": {"code": 4502, "reason": "enough"}})
        await backend.push(connection_key(gateway.settings.gateway_id), items)
        assert await ana.closed() == 4502
        received = [frame["data"]["n"] for frame in ana.pushes("test.pushed")]
        assert sorted(received) == list(range(-1, 50))
        assert [n for n in received if n >= 0] == list(range(50))
