"""Stored outcomes: what the inbox keeps, and what a repetition still does of it."""

from typing import Final

import msgspec

from towpath.servicekit.messaging.publication import Publication
from towpath.servicekit.storage.stored_outcome import StoredOutcome

JOINED: Final = StoredOutcome(
    answer=msgspec.Raw(b'{"action":"chat.join.ok"}'),
    outgoing=[Publication("towpath.push", "group.chat:lobby", msgspec.Raw(b"{}"))],
    subscribe=["chat:lobby", "chat:lock"],
    unsubscribe=["chat:lock", "chat:quay"],
    replay={"chat:lobby": 3, "chat:quay": 4},
)


def test_names_are_all_its_groups_and_streams() -> None:
    assert JOINED.names == {"chat:lobby", "chat:lock", "chat:quay"}
    assert StoredOutcome(answer=JOINED.answer).names == set()


def test_only_allowed_groups_and_streams_are_joined_and_replayed() -> None:
    settled = JOINED.within({"chat:lock"})
    assert settled.subscribe == ["chat:lock"]
    assert settled.replay == {}


def test_no_allowed_group_is_left() -> None:
    assert JOINED.within({"chat:lock"}).unsubscribe == ["chat:quay"]
    assert JOINED.within(set()).unsubscribe == ["chat:lock", "chat:quay"]


def test_the_answer_and_the_pushes_stay_the_same() -> None:
    settled = JOINED.within(set())
    assert (settled.answer, settled.outgoing) == (JOINED.answer, JOINED.outgoing)
