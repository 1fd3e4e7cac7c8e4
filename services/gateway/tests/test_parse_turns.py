"""Parse turns: parse time is divided between users, so that one with many connections delays no other."""

import asyncio
from time import perf_counter
from typing import Final

from towpath.gateway.websocket.parse_turns import TURN, ParseTurns

SLICE_SECONDS: Final = 0.0005


class Bytes:
    """A connection with so many slices to parse."""

    def __init__(self, owner: str, slices: int) -> None:
        self.owner = owner
        self.left = slices
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def parse_slice(self) -> bool:
        until = perf_counter() + SLICE_SECONDS
        while perf_counter() < until:
            pass
        self.left -= 1
        if not self.left:
            self.done.set_result(None)
        return self.left > 0


async def test_a_small_read_is_parsed_at_once() -> None:
    small = Bytes("ana", 1)
    assert ParseTurns().take(small) is False
    assert small.done.done()


async def test_a_large_read_is_parsed_over_many_loop_iterations() -> None:
    turns, large = ParseTurns(), Bytes("ana", 400)
    assert turns.take(large) is True
    assert large.left > 380
    count = 0
    while not large.done.done():
        await asyncio.sleep(0)
        count += 1
    assert count >= 5
    assert turns.waiting == 0


async def test_a_user_with_one_connection_overtakes_one_with_a_hundred() -> None:
    turns = ParseTurns()
    flood = [Bytes("mallory", 50) for _ in range(100)]
    for one in flood:
        turns.take(one)
    honest = Bytes("ana", 2)
    turns.take(honest)
    await honest.done
    # ana has had two slices while mallory's hundred connections had some tens, not thousands.
    assert sum(one.left for one in flood) > 100 * 50 - 100 * 2 - 4 * TURN / SLICE_SECONDS


async def test_an_ended_connection_is_not_parsed() -> None:
    turns, gone = ParseTurns(), Bytes("ana", 100)
    turns.take(gone)
    turns.forget(gone)
    left = gone.left
    for _ in range(5):
        await asyncio.sleep(0)
    assert gone.left == left
    assert turns.waiting == 0


async def test_a_connection_that_was_admitted_while_it_waited_can_be_forgotten() -> None:
    turns, large = ParseTurns(), Bytes("192.0.2.1", 100)
    assert turns.take(large) is True
    large.owner = "ana"
    turns.forget(large)
    left = large.left
    for _ in range(5):
        await asyncio.sleep(0)
    assert (turns.waiting, large.left) == (0, left)
