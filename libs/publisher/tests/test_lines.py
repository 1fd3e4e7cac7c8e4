"""The rows in memory: any interleaving of looks, confirms, failures and parks keeps the order of each aggregate."""

import asyncio
import random
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from towpath.publisher.relay.database import Row
from towpath.publisher.relay.lines import Lines


class Table:
    """The table of the outbox, as far as the order of rows goes."""

    def __init__(self, aggregates: list[str | None]) -> None:
        self.rows = {
            number: Row(number, aggregate, f"m-{number}", "order.paid", "{}", 0)
            for number, aggregate in enumerate(aggregates, 1)
        }
        self.parked: set[int] = set()

    def next_rows(self, held: set[int], blocked: set[str], count: int) -> list[Row]:
        """As the query of the relay says it."""
        behind = {(row.aggregate, number) for number in self.parked if (row := self.rows[number]).aggregate}
        found = [
            row
            for number, row in self.rows.items()
            if number not in self.parked | held
            and row.aggregate not in blocked
            and not any(row.aggregate == aggregate and number > first for aggregate, first in behind)
        ]
        return found[:count]


@given(
    aggregates=st.lists(st.sampled_from(["a", "b", "c", None]), max_size=25),
    batch=st.integers(1, 8),
    seed=st.integers(0, 2**32),
)
def test_the_order_of_each_aggregate_is_kept_and_nothing_is_lost(
    aggregates: list[str | None], batch: int, seed: int
) -> None:
    # Not hypothesis's own: its end of an example is an exception, which must not be one of a task.
    chance = random.Random(seed)

    async def story() -> None:
        table, published = Table(aggregates), list[Row]()
        parked_once: set[int] = set()

        async def turns() -> None:
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)

        async def publish(row: Row, on_failure: Callable[[], None]) -> str | None:
            await turns()
            while chance.random() < 0.3:
                on_failure()
                await turns()
            if row.id not in parked_once and chance.random() < 0.15:
                parked_once.add(row.id)
                return "refused"
            published.append(row)
            return None

        lines = Lines(publish, lambda: None)
        for _ in range(10_000):
            if not table.rows:
                break
            confirmed, parked = lines.settled()
            await turns()  # the statements
            for number in confirmed:
                del table.rows[number]
            table.parked |= parked.keys()
            lines.done(confirmed, parked)
            if len(lines.held) <= batch // 2:
                held, blocked = set(lines.held), set(lines.blocked)
                lines.look()
                found = table.next_rows(held, blocked, batch - len(held))
                await turns()  # the answer to the query
                for row in found:
                    lines.add(row)
                assert len(lines.held) <= batch
            if table.parked and chance.random() < 0.2:
                table.parked.clear()  # An operator retries all of them.
            await asyncio.sleep(0)
        await lines.cancel()
        assert table.rows == {}
        for aggregate in ("a", "b", "c"):
            numbers = [row.id for row in published if row.aggregate == aggregate]
            assert numbers == sorted(numbers)
        assert sorted(row.id for row in published) == list(range(1, len(aggregates) + 1))

    asyncio.run(story())
