"""Places of a buffer: bounded, in turn, and given back in every order of events."""

import asyncio
import random

from hypothesis import given
from hypothesis import strategies as st

from towpath.publisher.room import Room

SIZES = st.lists(st.tuples(st.integers(1, 120), st.booleans()), max_size=30)


@given(arrivals=SIZES, seed=st.integers(0, 2**32))
def test_no_more_than_the_bounds_wait_and_every_place_is_given_back(
    arrivals: list[tuple[int, bool]], seed: int
) -> None:
    # Not hypothesis's own: its end of an example is an exception, which must not be one of a task.
    chance = random.Random(seed)

    async def story() -> None:
        room, held = Room(4, 100), list[int]()

        async def hold(size: int) -> None:
            await room.take(size)
            held.append(size)
            try:
                # A place may be given to a task that has not run yet.
                assert len(held) <= room.taken <= 4
                assert room.taken == 1 or sum(held) <= 100
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
            finally:
                held.remove(size)
                room.free(size)

        tasks = []
        for size, is_cancelled in arrivals:
            task = asyncio.create_task(hold(size))
            tasks.append(task)
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
            if is_cancelled:
                task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        errors = [error for error in outcomes if error is not None]
        assert [error for error in errors if not isinstance(error, asyncio.CancelledError)] == []
        assert room.taken == 0
        await asyncio.wait_for(room.take(1_000), 1)  # Alone, more than the bound is taken, too.

    asyncio.run(story())


async def test_a_large_message_is_not_overtaken_by_small_ones() -> None:
    room, order = Room(10, 100), list[int]()

    async def hold(size: int) -> None:
        await room.take(size)
        order.append(size)

    await room.take(60)
    tasks = [asyncio.create_task(hold(size)) for size in (90, 10, 10)]
    await asyncio.sleep(0)
    assert order == []
    room.free(60)
    await asyncio.gather(*tasks[:2])
    assert order == [90, 10]
    room.free(90)
    await tasks[2]
    assert order == [90, 10, 10]
