"""Trials: one example of a message, handled by a service that was just started on an empty database.

A trial sees the state of a service as others would find it after a crash: its rows, committed, and whatever the team
names beside them. Comparisons are within one trial wherever possible, so ids and times need no care.
"""

import inspect
import json
import pprint
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import sqlalchemy as sa

from towpath.protocol.envelope import make
from towpath.protocol.errors import ErrorCode
from towpath.protocol.messages import encode, read_command, wrap_command
from towpath.protocol.routes import COMMANDS, EVENTS, PUSH
from towpath.servicekit import Handler, KitTables, Service
from towpath.testkit.builders import Incoming
from towpath.testkit.dispatching import ServiceUnderTest

#: Returns state outside of the service's own tables, of any type that can be printed.
Outside = Callable[[], object | Awaitable[object]]
#: Table → its rows as text, sorted.
State = Mapping[str, Sequence[str]]

_OUTSIDE: Final = "the state outside"
_SHOWN: Final = 300


class Seen(Exception):
    """A guarantee is broken; the text is what was seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A message that the service accepts, and what has to be before it.

    Attributes:
        message: From :func:`~towpath.testkit.builders.a_command` or :func:`~towpath.testkit.builders.an_event`.
        after: Messages that are handled before it, one after another.
        invalid: Data that the service must refuse, beside those that are made from the data of ``message``.
    """

    message: Incoming
    after: Sequence[Incoming] = ()
    invalid: Sequence[Mapping[str, Any]] = ()

    @property
    def is_command(self) -> bool:
        return self.message.exchange == COMMANDS

    @property
    def envelope(self) -> Mapping[str, Any]:
        """The envelope of the message."""
        item = self.message.item
        envelope: Mapping[str, Any] = read_command(item).envelope if self.is_command else json.loads(item)
        return envelope

    @property
    def action(self) -> str:
        return str(self.envelope["action"])

    def with_data(self, data: Mapping[str, Any]) -> Incoming:
        """The message with other data, and another ``msg_id``."""
        text = make(self.action, data, key=self.envelope.get("key")).to_json()
        if self.is_command:
            text = wrap_command(encode(read_command(self.message.item).session), text)
        return replace(self.message, item=text)


@dataclass(frozen=True, slots=True)
class Case:
    """An example of a service, for any number of trials.

    Attributes:
        outside: See :data:`Outside`.
        ignored: Columns that may differ, such as the time of the last repetition.
    """

    service: Service[Any]
    example: Example
    outside: Outside | None = None
    ignored: Collection[str] = ()

    @property
    def handler(self) -> Handler:
        handlers = self.service.commands if self.example.is_command else self.service.events
        return handlers[self.example.action]

    def trial(self) -> AbstractAsyncContextManager["Trial"]:
        """A new trial: what is before the example has been handled."""
        return Trial.of(self)


class Trial:
    """See the head of this module; made with :meth:`of`.

    Attributes:
        service: The service that handles the example.
    """

    def __init__(self, service: ServiceUnderTest, case: Case) -> None:
        self.service = service
        self.example = case.example
        self._outside = case.outside
        self._ignored = case.ignored
        self._tables = Tables.of(case.service)

    @classmethod
    @asynccontextmanager
    async def of(cls, case: Case) -> AsyncIterator["Trial"]:
        """A trial of the example of ``case``.

        Raises:
            Seen: The service refuses a message that is to be handled before.
        """
        # A failing command is answered at once: in a test nothing gets better while it is tried again.
        async with ServiceUnderTest.running(case.service, try_seconds=0.0) as under_test:
            trial = cls(under_test, case)
            for message in case.example.after:
                await under_test.dispatch(message)
                must_be_accepted(under_test, Example(message=message), "which is to be handled before,")
            under_test.forget()
            yield trial

    async def handle(self, *, redelivered: bool = False) -> None:
        """Handle the example.

        Raises:
            Seen: It was not accepted.
        """
        await self.service.dispatch(self.example.message, redelivered=redelivered)
        self.must_be_accepted()

    def must_be_accepted(self) -> None:
        """See :meth:`handle`."""
        must_be_accepted(self.service, self.example)

    async def state(self) -> State:
        """The committed rows, and the state outside."""
        found = await self._tables.rows(self.service, self._ignored)
        if self._outside is not None:
            value = self._outside()
            value = await value if inspect.isawaitable(value) else value
            found[_OUTSIDE] = [pprint.pformat(value, width=100_000)]
        return found

    async def must_be(self, before: State, when: str) -> None:
        """The state is still ``before``.

        Raises:
            Seen
        """
        if (after := await self.state()) != before:
            raise Seen(f"{when} {difference(before, after)}")

    async def done(self) -> "Done":
        """The effects and publications so far; those of later repetitions are looked at alone."""
        events = {(event.action, event.msg_id) for event in self.service.events()}
        done = Done(await self.state(), self._answers(), events)
        self.service.forget()
        return done

    async def must_still_be(self, done: "Done", when: str) -> None:
        """A repetition has changed nothing, and was answered in the same way.

        Raises:
            Seen
        """
        await self.must_be(done.state, when)
        for answer in self._answers():
            if answer not in done.answers:
                raise Seen(f"{when} the answer is {_short(answer)} instead of {_short(done.answers[0])}")
        for event in self.service.events():
            if (event.action, event.msg_id) not in done.events:
                raise Seen(f"{when} {event.action} is published as another event, with another msg_id")

    def _answers(self) -> list[str]:
        answers = self.service.answers(self.example.envelope["msg_id"])
        return [
            f"{answer.action} {json.dumps(answer.data, sort_keys=True, default=str)}" for answer in answers
        ]

    def kinds(self) -> Counter[tuple[str, str]]:
        """Routing key and action of each publication → how often."""
        found = Counter(
            (heard.routing_key, heard.envelope.action)
            for heard in self.service.heard
            if heard.exchange in (EVENTS, PUSH) and not heard.is_directed
        )
        found.update(
            ("the sender", answer.action) for answer in self.service.answers(self.example.envelope["msg_id"])
        )
        return found


def must_be_accepted(service: ServiceUnderTest, example: Example, which: str = "") -> None:
    """The service has accepted the message of an example.

    Raises:
        Seen: It was refused, or its handler failed.
    """
    failures = service.retried() + service.parked()
    what = f"{example.action} {which}".strip()
    if not example.is_command:
        if failures:
            raise Seen(f"{what} was not accepted: {_short(failures[-1])}")
        return
    answers = service.answers(example.envelope["msg_id"])
    if not answers:
        raise Seen(f"{what} was not answered")
    if (answer := answers[-1]).action != f"{example.action}.ok":
        why = failures[-1] if failures else answer.data.get("message", "")
        raise Seen(f"{what} was answered {answer.data.get('code', answer.action)}: {_short(why)}")


def failure_of(service: ServiceUnderTest, message: Incoming) -> str:
    """How a message failed that had to be accepted or refused; empty if it was one of both."""
    if message.exchange == EVENTS:
        return f"its handler raised {_error_of(service, message)}" if service.retried() else ""
    answers = service.answers(str(read_command(message.item).envelope["msg_id"]))
    if not answers:
        return "it was not answered"
    if answers[-1].data.get("code") == ErrorCode.INTERNAL:
        return f"it was answered `internal`: its handler raised {_error_of(service, message)}"
    return ""


def _error_of(service: ServiceUnderTest, message: Incoming) -> str:
    errors = [heard.reason for heard in service.heard if heard.item == message.item and heard.reason]
    return _short(errors[-1] if errors else "an error")


def difference(before: State, after: State) -> str:
    """The first difference of two states, in words."""
    for table in sorted({*before, *after}):
        was, is_now = Counter(before.get(table, ())), Counter(after.get(table, ()))
        gone, new = list((was - is_now).elements()), list((is_now - was).elements())
        if gone and new:
            return f"{table} has {_short(new[0])} instead of {_short(gone[0])}"
        if new:
            return f"{table} has {_short(new[0])}, which was not there before"
        if gone:
            return f"{table} does not have {_short(gone[0])} any more"
    return "nothing has changed"


@dataclass(frozen=True, slots=True)
class Done:
    """The effects and publications of a message that was handled.

    Attributes:
        answers: Action and data of each answer.
        events: Action and ``msg_id`` of each event.
    """

    state: State
    answers: Sequence[str]
    events: Collection[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables that are a service's state.

    Attributes:
        own: Those that it declares itself.
        kit: Of the kit's: the entries of its streams, and its effects.
    """

    own: Sequence[sa.Table]
    kit: Sequence[sa.Table]

    @classmethod
    def of(cls, service: Service[Any]) -> "Tables":
        """The tables of ``service``; none if it has no storage."""
        storage = service.storage
        if storage is None:
            return cls([], [])
        kit = sa.MetaData()
        KitTables.define(kit, storage.inbox.name.removesuffix("_inbox"))
        tables = storage.inbox.metadata.sorted_tables
        streams = [] if storage.streams is None else [storage.streams.entries]
        effects = [] if storage.effects is None else [storage.effects]
        return cls([table for table in tables if table.name not in kit.tables], streams + effects)

    async def rows(
        self, service: ServiceUnderTest, ignored: Collection[str] = ()
    ) -> dict[str, Sequence[str]]:
        """The rows of all tables as text, sorted."""
        found: dict[str, Sequence[str]] = {}
        for table in (*self.own, *self.kit):
            rows = await service.rows(table)
            found[table.name] = sorted(", ".join(_fields(row, ignored)) for row in rows)
        return found


def _fields(row: sa.Row[Any], ignored: Collection[str]) -> Iterator[str]:
    for name, value in row._mapping.items():
        if name not in ignored:
            yield f"{name}={value!r}"


def _short(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
