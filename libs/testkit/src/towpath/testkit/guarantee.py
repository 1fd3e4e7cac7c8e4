"""The delivery guarantees as ready-made checks, which a team runs against its own handlers.

    GUARANTEES = guarantees(SERVICE, a_command("ledger.greet", name="Ben"))

    @pytest.mark.parametrize("guarantee", GUARANTEES, ids=str)
    async def test_our_handlers_keep(guarantee: Guarantee) -> None:
        await guarantee.holds()

Each guarantee is a test: its name is a sentence, and its failure says what was seen, and the remedy. It runs the
service on a broker in memory and on SQLite, in a fraction of a second.
"""

from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from towpath.servicekit import Service
from towpath.testkit import guarantee_checks as checks
from towpath.testkit.builders import Incoming
from towpath.testkit.guarantee_checks import Check, Stories
from towpath.testkit.trials import Case, Example, Outside, Seen


class GuaranteeBroken(AssertionError):
    """A handler does not keep a guarantee.

    Attributes:
        guarantee: The action, and the guarantee as a sentence.
        seen: The first thing that broke it, with what was expected.
        remedy: How to keep it.
    """

    def __init__(self, guarantee: str, seen: str, remedy: str) -> None:
        super().__init__(f"{guarantee}\n  seen:   {seen}\n  remedy: {remedy}")
        self.guarantee = guarantee
        self.seen = seen
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Guarantee:
    """One guarantee of one handler.

    Attributes:
        subject: The action, or the service.
        title: The guarantee as a sentence.
    """

    subject: str
    title: str
    remedy: str = field(repr=False)
    check: Callable[[], Awaitable[None]] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.subject}: {self.title}"

    async def holds(self) -> None:
        """Check it.

        Raises:
            GuaranteeBroken
            Misfit: The service published something else than it declares.
        """
        # Read by pytest: the failure is its text, and not this frame.
        __tracebackhide__ = True
        try:
            await self.check()
        except Seen as seen:
            raise GuaranteeBroken(str(self), str(seen), self.remedy) from None


def guarantees(
    service: Service[Any],
    *examples: Example | Incoming,
    stories: Sequence[Sequence[Incoming]] = (),
    state: Outside | None = None,
    ignored: Collection[str] = (),
    complete: bool = True,
) -> list[Guarantee]:
    """The guarantees that the handlers of ``service`` have to keep.

    Args:
        examples: A message for each handler, which the service accepts; an :class:`Example` names what has to be
            before it.
        stories: Sequences of messages that have nothing to do with each other, each in its order. Interleaved in any
            way they have the same outcome.
        state: Returns what handlers may change beside the service's tables, such as a variable or a file.
        ignored: Columns that may differ, such as the time of the last repetition. Between two interleavings times,
            random ids and numbers of rows may differ as well.
        complete: Whether each handler that changes something must have an example, which is then one of the checks.

    Raises:
        ValueError: The service has no handler for an example.
    """
    given = [one if isinstance(one, Example) else Example(message=one) for one in examples]
    cases = [Case(service, example, state, ignored) for example in given]
    for case in cases:
        handlers = service.commands if case.example.is_command else service.events
        if case.example.action not in handlers:
            known = ", ".join(sorted(handlers)) or "none"
            raise ValueError(f"{service.name} has no handler for {case.example.action!r}; it has {known}")
    found = [one for case in cases for one in _of_case(case)]
    if stories:
        found.append(
            Guarantee(
                service.name,
                "messages of other keys, in another order or in one batch, do not change the outcome",
                "load and change the rows of the message's own key alone; name columns that may differ in ignored=",
                Stories(service, stories, ignored).end_alike,
            )
        )
    if complete:
        found.append(_completeness(service, cases))
    return found


def _of_case(case: Case) -> Iterator[Guarantee]:
    noun = "a command" if case.example.is_command else "an event"
    for check in _checks_of(case):
        yield Guarantee(
            case.example.action, check.title.format(noun=noun), check.remedy, partial(check.run, case)
        )


def _checks_of(case: Case) -> Sequence[Check]:
    handler = case.handler
    if case.service.storage is None:
        return checks.ANY
    if not handler.changes and not handler.idempotent:
        return checks.READS + checks.ANY
    kind = checks.COMMANDS if case.example.is_command else checks.EVENTS
    return kind + checks.CHANGES + checks.ANY


def _completeness(service: Service[Any], cases: Sequence[Case]) -> Guarantee:
    changing = [
        action
        for action, handler in {**service.commands, **service.events}.items()
        if handler.changes or handler.idempotent
    ]
    missing = sorted({*changing} - {case.example.action for case in cases})

    async def check() -> None:
        if missing:
            raise Seen(f"{', '.join(missing)} has none")

    return Guarantee(
        service.name,
        "every handler that changes something has an example",
        "give one to guarantees(), or say complete=False",
        check,
    )
