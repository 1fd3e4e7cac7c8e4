"""What the inbox keeps of an outcome, and what of it a repetition still does."""

from typing import Final

import msgspec

from towpath.servicekit.outcome import Outgoing, Settled

JOINED: Final = Settled(
    answer=msgspec.Raw(b'{"action":"chat.join.ok"}'),
    outgoing=[Outgoing("towpath.push", "group.chat:lobby", msgspec.Raw(b"{}"))],
    subscribe=["chat:lobby", "chat:lock"],
    unsubscribe=["chat:lock", "chat:quay"],
    replay={"chat:lobby": 3, "chat:quay": 4},
)


def test_it_names_all_groups_and_streams_that_it_is_about() -> None:
    assert JOINED.heard == {"chat:lobby", "chat:lock", "chat:quay"}
    assert Settled(answer=JOINED.answer).heard == set()


def test_nothing_is_joined_or_replayed_that_may_not_be_heard() -> None:
    settled = JOINED.within({"chat:lock"})
    assert settled.subscribe == ["chat:lock"]
    assert settled.replay == {}


def test_nothing_is_left_that_may_be_heard() -> None:
    assert JOINED.within({"chat:lock"}).unsubscribe == ["chat:quay"]
    assert JOINED.within(set()).unsubscribe == ["chat:lock", "chat:quay"]


def test_what_is_said_stays_as_it_was() -> None:
    settled = JOINED.within(set())
    assert (settled.answer, settled.outgoing) == (JOINED.answer, JOINED.outgoing)
