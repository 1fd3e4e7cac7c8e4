"""A trial: load on a system, a fault in it, the verdict, and a line in the table."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest

from towpath.testkit.eventually import eventually
from towpath.testkit.system import System

from . import history
from .evidence import Evidence, Outcome
from .journal import now
from .oracle import Verdict, judge, recovery
from .storage import Databases
from .table import Line, Soaked, Table
from .workload import Load

#: Seconds that what is missing may take to arrive once nothing breaks any more.
_SETTLE_SECONDS: Final = 45.0
#: Seconds after that in which what comes too late, or again, is still counted.
_LATE_SECONDS: Final = 1.0


class Trial:
    """One test's trial.

    Args:
        promise: The test's name: what is promised.
        seed: Of the load, and of whatever the test leaves to chance.
        histories: The folder for what was asked and shown, see :mod:`tests.faults.history`; ``None`` for no file.
    """

    def __init__(self, promise: str, seed: str, table: Table, histories: Path | None = None) -> None:
        self._histories = histories
        self.seed = seed
        self._promise = promise
        self._table = table
        self._struck: float | None = None
        self._further = 0.0
        self._may_refuse: Collection[str] = ()
        self._load: Load | None = None
        self._line: Line | None = None

    @contextlib.asynccontextmanager
    async def of(
        self,
        fault: str,
        system: System,
        *,
        within: float | None = None,
        may_refuse: Collection[str] = (),
        urls: Sequence[str] | None = None,
        **options: Any,
    ) -> AsyncIterator[Load]:
        """Load from entry to exit; then all that was asked and shown is judged.

        Args:
            fault: Its name in the table.
            within: Seconds that recovery may take from :meth:`strike` on; ``None`` where nothing is to recover.
            may_refuse: Codes of errors that are right while it is broken; what they refuse must have no effect.
            urls: Where people connect; by default to the system's gateways.
            options: Of :class:`Load`.

        Raises:
            AssertionError: A promise is broken; the message says which, how, and with which seed.
        """
        line = self._line = Line(promise=self._promise, fault=fault, bound=within)
        self._table.add(line)
        self._may_refuse = may_refuse
        async with Load.on(urls or system.urls, system.rabbitmq.url, self.seed, **options) as load:
            self._load = load
            try:
                await load.flows()
                yield load
                if within is not None:
                    await self.recovers()
            except BaseException as error:
                line.failure = f"{type(error).__name__}: {error}".partition("\n")[0]
                raise
            finally:
                line.recovery = self._recovery()
                line.verdict = Verdict(operations=len(load.journal.asked))
            try:
                line.verdict = await self._verdict(load, system)
                self._check(line)
            except BaseException as error:
                line.failure = f"{type(error).__name__}: {error}".partition("\n")[0]
                raise

    @contextlib.contextmanager
    def line(self, fault: str) -> Iterator[Line]:
        """A line of the table for what the test itself judges, without the usual load."""
        line = self._line = Line(promise=self._promise, fault=fault)
        self._table.add(line)
        try:
            yield line
        except BaseException as error:
            line.failure = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise

    @property
    def chance(self) -> random.Random:
        """The random choices of the test itself; the same for the same seed."""
        return random.Random(f"{self.seed} {self._promise}")

    def note(self, measured: str) -> None:
        """Say in the table what was measured beside the verdict."""
        assert self._line is not None, "nothing is tried"
        self._line.fault += f", {measured}"

    def soaked(self, soaked: Soaked) -> None:
        """The data for the page of a soak."""
        self._table.soaked = soaked

    def strike(self) -> None:
        """Recovery is measured from here: the moment of the fault, or of its end where it lasts."""
        self._struck = now()

    def not_run(self, fault: str, why: str) -> NoReturn:
        """Say in the table that this could not be held here, and why."""
        self._table.add(Line(promise=self._promise, fault=fault, not_run=why))
        pytest.skip(why)

    async def until(self, holds: Callable[[], object], *, timeout: float = 90.0) -> None:
        """Wait until ``holds`` gives something true: it is part of the recovery."""
        assert self._struck is not None, "nothing was struck"
        await eventually(holds, timeout=timeout)
        self._further = max(self._further, now() - self._struck)

    async def recovers(self, *, timeout: float = 90.0) -> None:
        """Wait until every user has the answer to a request made after the strike."""
        assert self._struck is not None, "nothing was struck"
        try:
            await eventually(lambda: self._recovery() is not None, timeout=timeout)
        except AssertionError:
            assert self._load is not None
            late = [person for person in self._load.people if not self._is_back(person.user)]
            told = "; ".join(f"{person.user}: {person.standing()}" for person in late)
            raise AssertionError(f"not recovered after {timeout:g} s; {told}") from None

    @property
    def recovery(self) -> float | None:
        """Seconds from the strike until every user had recovered; ``None`` while one has not."""
        return self._recovery()

    def _is_back(self, user: str) -> bool:
        assert self._struck is not None
        assert self._load is not None
        asked = [one for one in self._load.journal.asked if one.who == user]
        return recovery(asked, self._struck) is not None

    def _recovery(self) -> float | None:
        if self._struck is None or self._load is None:
            return None
        people = recovery(self._load.journal.asked, self._struck)
        return None if people is None else max(people, self._further)

    async def _verdict(self, load: Load, system: System) -> Verdict:
        await load.rest()
        databases = Databases(system.chat, system.orders)

        async def evidence() -> Evidence:
            journal, stored = load.journal, await databases.read()
            return Evidence(
                asked=list(journal.asked),
                shown=list(journal.shown),
                followed=[one for device in load.devices for one in device.followed()],
                entries=[one for one in stored.entries if not load.is_aside(one.stream)],
                messages=[one for one in stored.messages if not load.is_aside(f"chat:{one.room}")],
                orders={
                    key: status
                    for key, status in stored.orders.items()
                    if not load.is_aside(f"order:{key[0]}")
                },
                members=load.members,
                passing=journal.passing,
            )

        async def is_clean() -> bool:
            return judge(await evidence(), self._may_refuse).is_clean

        # An event that was confirmed takes effect later, and a push that was missed is asked for: "not yet" is no
        # verdict, and what is still dirty when the time is over is.
        with contextlib.suppress(AssertionError):
            await eventually(is_clean, timeout=_SETTLE_SECONDS, every=0.25)
        await asyncio.sleep(_LATE_SECONDS)
        ended, found = now(), await evidence()
        if self._histories is not None:
            history.write(found, ended, self._histories / f"{_file_name(self._promise)}.jsonl")
        return judge(found, self._may_refuse)

    def _unanswered(self) -> str:
        assert self._load is not None
        unknown = [one for one in self._load.journal.asked if one.outcome is Outcome.UNKNOWN]
        return "\n".join(f"no answer to {one}" for one in unknown)

    def _check(self, line: Line) -> None:
        assert line.verdict.is_clean, f"{line.verdict}\nseed {self.seed}"
        assert line.verdict.unknown == 0, f"{self._unanswered()}\nseed {self.seed}"
        if line.bound is not None:
            assert line.recovery is not None
            assert line.recovery <= line.bound, f"recovered after {line.recovery:.1f} s, not {line.bound:g} s"


def _file_name(promise: str) -> str:
    """The promise without its prefix, and of a parameter only what a file name may have."""
    return "".join(letter if letter.isalnum() else "_" for letter in promise.removeprefix("test_"))[:150]
