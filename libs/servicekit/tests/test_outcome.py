"""What the inbox keeps of an outcome, and what of it a repetition still does."""

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


def test_it_names_all_groups_and_streams_that_it_is_about() -> None:
    assert JOINED.names == {"chat:lobby", "chat:lock", "chat:quay"}
    assert StoredOutcome(answer=JOINED.answer).names == set()


def test_only_allowed_groups_and_streams_are_joined_and_replayed() -> None:
    settled = JOINED.within({"chat:lock"})
    assert settled.subscribe == ["chat:lock"]
    assert settled.replay == {}


def test_no_allowed_group_is_left() -> None:
    assert JOINED.within({"chat:lock"}).unsubscribe == ["chat:quay"]
    assert JOINED.within(set()).unsubscribe == ["chat:lock", "chat:quay"]


def test_what_is_said_stays_as_it_was() -> None:
    settled = JOINED.within(set())
    assert (settled.answer, settled.outgoing) == (JOINED.answer, JOINED.outgoing)
