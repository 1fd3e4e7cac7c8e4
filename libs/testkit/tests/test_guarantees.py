"""The guarantees as checks: our own handlers keep them, and each check finds a handler that does not."""

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
from structlog.testing import capture_logs

from towpath.servicekit import Handler, Service
from towpath.testkit import (
    Example,
    Guarantee,
    GuaranteeBroken,
    Incoming,
    a_command,
    an_event,
    guarantees,
)

from . import counting
from .counting import OUTSIDE, SERVICE, Add, Lax, Look, Number, with_command, with_event

ADD: Final = a_command("count.add", word="oak", amount=2)
PAID: Final = an_event("shop.paid", word="oak", amount=2)
LOOK: Final = Example(message=a_command("count.look", word="oak"), after=[ADD])

REDELIVERED: Final = "a command that is redelivered takes effect once"
EVENT_REDELIVERED: Final = "an event that is redelivered takes effect once"
REPEATED: Final = "the same msg_id is answered the same, and takes effect once"
TWICE: Final = "an event that comes twice changes once"
BEFORE_COMMIT: Final = "a crash before the commit leaves nothing behind"
BEFORE_PUBLISH: Final = "a crash between commit and publish loses nothing"
BEFORE_ACK: Final = "a crash before the ack doubles nothing"
INVALID: Final = "invalid data gets an error and loses nothing"
READ: Final = "a read changes nothing"
OTHER_ORDER: Final = "messages of other keys, in another order or in one batch, do not change the outcome"
COMPLETE: Final = "every handler that changes something has an example"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """No tracebacks of the planted faults: to print them takes most of the time."""
    with capture_logs():
        yield


async def broken(
    service: Service[Any], *examples: Example | Incoming, **options: Any
) -> dict[str, GuaranteeBroken]:
    """The guarantees that ``service`` does not keep, by their titles."""
    found = {}
    for guarantee in guarantees(service, *examples, **{"complete": False, **options}):
        try:
            await guarantee.holds()
        except GuaranteeBroken as error:
            found[guarantee.title] = error
    return found


def outside() -> dict[str, int]:
    return dict(OUTSIDE)


@pytest.mark.parametrize(
    "guarantee",
    guarantees(
        SERVICE,
        ADD,
        PAID,
        LOOK,
        stories=[
            [an_event("shop.paid", word="oak", amount=1), an_event("shop.paid", word="oak", amount=2)],
            [an_event("shop.paid", word="elm", amount=3), an_event("shop.paid", word="elm", amount=4)],
            [a_command("count.add", word="ash", amount=5)],
        ],
        state=outside,
    ),
    ids=str,
)
async def test_handlers_that_work_through_their_unit_of_work_keep(guarantee: Guarantee) -> None:
    await guarantee.holds()


PLANTED: Final[dict[str, tuple[Service[Any], Example | Incoming, dict[str, str]]]] = {
    "a variable is changed beside the transaction": (
        with_command(Handler(Add, counting.add_outside, answer=Number)),
        ADD,
        {BEFORE_COMMIT: "the state outside has"},
    ),
    "a count is declared to be idempotent": (
        with_command(Handler(Add, counting.add, answer=Number, changes=False, idempotent=True)),
        ADD,
        {
            REDELIVERED: "count_counts has word='oak', number=4",
            REPEATED: "number=4",
            BEFORE_PUBLISH: "number=4",
            BEFORE_ACK: "number=4",
            BEFORE_COMMIT: "number=4",
        },
    ),
    "the count of an event is declared to be idempotent": (
        with_event(Handler(Add, counting.on_paid, changes=False, idempotent=True)),
        PAID,
        {
            EVENT_REDELIVERED: "number=4",
            TWICE: "number=4",
            BEFORE_PUBLISH: "number=4",
            BEFORE_ACK: "number=4",
            BEFORE_COMMIT: "number=4",
        },
    ),
    "the answer is made from a replay": (
        with_command(Handler(Add, counting.add_with_late_answer, answer=Number)),
        ADD,
        dict.fromkeys([REDELIVERED, REPEATED, BEFORE_PUBLISH, BEFORE_ACK], "count.add was not answered"),
    ),
    "the model is too lax": (
        with_command(Handler(Lax, counting.add_lax, answer=Number)),
        ADD,
        {INVALID: "its handler raised"},
    ),
    "the model of an event is too lax": (
        with_event(Handler(Lax, counting.paid_lax)),
        PAID,
        {INVALID: "its handler raised"},
    ),
    "the handler raises": (
        with_command(Handler(Add, counting.add_never, answer=Number)),
        ADD,
        dict.fromkeys([REDELIVERED, REPEATED, BEFORE_PUBLISH, BEFORE_ACK, INVALID], "the price list is empty")
        | {BEFORE_COMMIT: "committed nothing"},
    ),
    "the handler of an event raises": (
        with_event(Handler(Add, counting.paid_never)),
        PAID,
        dict.fromkeys(
            [EVENT_REDELIVERED, TWICE, BEFORE_PUBLISH, BEFORE_ACK, INVALID], "the price list is empty"
        )
        | {BEFORE_COMMIT: "committed nothing"},
    ),
    "a read changes a variable": (
        with_command(Handler(Look, counting.look_outside, answer=Number, changes=False), "count.look"),
        LOOK,
        {READ: "the state outside has", INVALID: "the state outside has"},
    ),
}


@pytest.mark.parametrize("fault", PLANTED)
async def test_a_check_finds_a_handler_in_which(fault: str) -> None:
    service, example, expected = PLANTED[fault]
    found = await broken(service, example, state=outside)
    assert {title: seen for title, seen in expected.items() if seen in found[title].seen} == expected
    assert set(found) == set(expected)


async def test_a_failure_names_the_guarantee_and_the_remedy() -> None:
    service = with_command(Handler(Add, counting.add, answer=Number, changes=False, idempotent=True))
    error = (await broken(service, ADD))[REDELIVERED]
    assert str(error).splitlines() == [
        f"count.add: {REDELIVERED}",
        f"  seen:   {error.seen}",
        f"  remedy: {error.remedy}",
    ]
    assert error.remedy.startswith("leave `changes=False` and `idempotent` out of the Handler")


async def test_an_outcome_that_depends_on_other_keys_is_found() -> None:
    stories = [[an_event("shop.paid", word=key, amount=1)] for key in ("oak", "elm")]
    found = await broken(with_event(Handler(Add, counting.rank)), stories=stories)
    assert set(found) == {OTHER_ORDER}
    assert found[OTHER_ORDER].seen == (
        "with the last sequence first, count_counts has word='elm', number=1 instead of word='elm', number=2"
    )


async def test_data_that_must_be_refused_are_named_when_they_are_accepted() -> None:
    example = Example(message=ADD, invalid=[{"word": "oak", "amount": 99}])
    found = await broken(SERVICE, example)
    assert found[INVALID].seen == "data {'word': 'oak', 'amount': 99} was accepted"


async def test_a_column_that_may_differ_is_ignored() -> None:
    service = with_command(Handler(Add, counting.touch, answer=Number, changes=False, idempotent=True))
    example = Example(message=ADD, after=[ADD])
    found = await broken(service, example)
    assert "number=" in found[REDELIVERED].seen
    assert await broken(service, example, ignored=["number", "changed_at"]) == {}


async def test_a_handler_without_an_example_is_named() -> None:
    found = await broken(SERVICE, ADD, complete=True)
    assert set(found) == {COMPLETE}
    assert found[COMPLETE].seen == "shop.paid has none"


async def test_an_example_without_what_has_to_be_before_it_says_so() -> None:
    found = await broken(SERVICE, Example(message=ADD, after=[a_command("count.look", word="elm")]))
    assert all("count.look which is to be handled before" in error.seen for error in found.values())
    assert found[REDELIVERED].seen.endswith("was answered conflict: 'elm' was never counted.")


def test_an_example_of_an_unknown_action_is_refused_at_once() -> None:
    with pytest.raises(
        ValueError, match=r"count has no handler for 'count\.ad'; it has count\.add, count\.look"
    ):
        guarantees(SERVICE, a_command("count.ad"))


def test_a_guarantee_is_named_by_its_action_and_its_sentence() -> None:
    names = [str(one) for one in guarantees(SERVICE, ADD, complete=False)]
    assert names == [
        f"count.add: {title}"
        for title in (REPEATED, REDELIVERED, BEFORE_COMMIT, BEFORE_PUBLISH, BEFORE_ACK, INVALID)
    ]


def test_data_with_the_names_of_arguments_are_given_as_a_mapping() -> None:
    command = a_command("count.add", {"amount": 2, "word": "oak"}, by="ana")
    assert Example(message=command).envelope["data"] == {"amount": 2, "word": "oak"}
    assert json.loads(an_event("shop.paid", {"sender": "x"}, amount=1).item)["data"] == {
        "sender": "x",
        "amount": 1,
    }
