"""Lines: the rows in memory, one line for each aggregate; the first row of each line is being published.

Guarantees:

* A line publishes one row at a time, in the order in which its rows were added, and no row of an aggregate is
  published before an earlier one is confirmed. Behind one that is parked none is.
* Rows behind one that fails take no place: they are forgotten, and looked for again when it is confirmed. So one
  aggregate does not keep the others waiting.
"""

import asyncio
import collections
from collections.abc import Awaitable, Callable, Collection

from towpath.publisher.relay.database import Row

#: Publishes a row, and returns ``None`` when it is confirmed, else the reason to park it. The second argument is
#: called when an attempt has failed.
Publish = Callable[[Row, Callable[[], None]], Awaitable[str | None]]


class Lines:
    """The rows in memory.

    Attributes:
        may_have_more: Set when rows were forgotten that are to be looked for again.
    """

    def __init__(self, publish: Publish, on_progress: Callable[[], None]) -> None:
        self._publish = publish
        self._on_progress = on_progress
        self._lines: dict[object, collections.deque[Row]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._held: dict[int, int] = {}
        self._confirmed: list[int] = []
        self._parked: dict[int, tuple[str | None, str]] = {}
        self._failing: set[str] = set()
        self._behind_parked: collections.Counter[str] = collections.Counter()
        self._forgotten: set[object] = set()
        self._stopping = False
        self._error: BaseException | None = None
        self.may_have_more = False

    @property
    def held(self) -> Collection[int]:
        """The ids of all rows in memory, those that are settled and still in the table among them."""
        return self._held.keys()

    @property
    def bytes(self) -> int:
        """The bytes of the data of these rows."""
        return sum(self._held.values())

    @property
    def blocked(self) -> Collection[str]:
        """Aggregates of which no further row may be added: the first one fails, or is about to be parked."""
        return self._failing | self._behind_parked.keys()

    def look(self) -> None:
        """Begin a look at the table: rows of aggregates that forget some during it are not added after it."""
        self._forgotten.clear()
        self.may_have_more = False

    def add(self, row: Row) -> None:
        """Put a row behind the others of its aggregate."""
        name: object = ("row", row.id) if row.aggregate is None else row.aggregate
        if name in self._forgotten or name in self.blocked:
            self.may_have_more = True
            return
        self._held[row.id] = len(row.data)
        line = self._lines.get(name)
        if line is not None:
            line.append(row)
            return
        line = self._lines[name] = collections.deque([row])
        task = asyncio.create_task(self._work(name, line))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def settled(self) -> tuple[list[int], dict[int, str]]:
        """Take the rows that are confirmed, and those to park with their reasons; :meth:`done` ends it.

        Raises:
            Exception: An error of a publish that ends the program.
        """
        if self._error is not None:
            raise self._error
        confirmed, self._confirmed = self._confirmed, []
        return confirmed, {number: reason for number, (_, reason) in self._parked.items()}

    def done(self, confirmed: Collection[int], parked: Collection[int]) -> None:
        """These rows are deleted, or parked in the table."""
        for number in (*confirmed, *parked):
            del self._held[number]
        for number in parked:
            name, _ = self._parked.pop(number)
            if name is not None:
                self._behind_parked -= collections.Counter([name])

    async def finish(self, seconds: float) -> None:
        """Begin no further row, and wait for the confirms of those in flight."""
        self._stopping = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    async def cancel(self) -> None:
        """Stop at once; rows without a confirm are published again by the next relay."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _work(self, name: object, line: "collections.deque[Row]") -> None:
        while line and not self._stopping:
            row = line[0]
            reason = await self._publish(row, lambda: self._fails(name, line))
            line.popleft()
            if row.aggregate in self._failing:
                self._failing.discard(row.aggregate)
                self.may_have_more = True
            if reason is None:
                self._confirmed.append(row.id)
            else:
                self._parked[row.id] = row.aggregate, reason
                if row.aggregate is not None:
                    self._behind_parked[row.aggregate] += 1
                self._forget(name, line)
            self._on_progress()
        self._forget(name, line)
        del self._lines[name]

    def _fails(self, name: object, line: "collections.deque[Row]") -> None:
        first = line.popleft()
        self._forget(name, line)
        line.append(first)
        if first.aggregate is not None:
            self._failing.add(first.aggregate)

    def _forget(self, name: object, line: "collections.deque[Row]") -> None:
        if line:
            self._forgotten.add(name)
            self.may_have_more = True
        for row in line:
            del self._held[row.id]
        line.clear()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._error = error
        self._on_progress()
