"""Senders: ids of different kinds never collide, whatever names are chosen."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from towpath.servicekit.messaging import senders
from towpath.servicekit.messaging.senders import MAX_LENGTH, SENDER, SERVICE
from towpath.servicekit.messaging.sources import Sources


@dataclass(frozen=True)
class Published:
    """A delivery, as far as it says who sent it."""

    app_id: str | None = None
    user_id: str | None = None
    exchange: str = "towpath.events"
    headers: Mapping[str, Any] = field(default_factory=dict)
    body: bytes = b""
    routing_key: str = ""
    queue: str = "orders.events"
    redelivered: bool = False

    def ack(self) -> None: ...
    def reject(self) -> None: ...
    def requeue(self) -> None: ...


def sender(delivery: Published, subject: str = "", *, was_deferred: bool = False) -> str:
    service = Sources().service_of(delivery)
    return senders.publisher(delivery, "order.paid", subject, service=service, was_deferred=was_deferred)


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=255)


@settings(deadline=None)
@given(names, names)
def test_senders_of_different_kinds_are_different_whatever_their_names(one: str, other: str) -> None:
    kinds = [
        senders.user(one[:128]),
        sender(Published(app_id=other)),
        sender(Published(app_id=other, user_id=one)),
        sender(Published(headers={SERVICE: other})),
        sender(Published(), one),
    ]
    assert len(set(kinds)) == len(kinds)
    assert all(len(kind) <= MAX_LENGTH for kind in kinds)


@settings(deadline=None)
@given(names, names)
def test_different_names_are_different_senders(one: str, other: str) -> None:
    ways: list[Callable[[str], Published]] = [
        lambda name: Published(app_id=name),
        lambda name: Published(user_id=name),
        lambda name: Published(app_id="billing", user_id=name),
        lambda name: Published(headers={SERVICE: name}),
    ]
    for make in ways:
        assert (sender(make(one)) == sender(make(other))) == (one == other)


def test_a_user_with_the_name_of_a_backend_is_another_sender() -> None:
    assert senders.user("event:billing") != sender(Published(app_id="billing"))
    assert senders.user("backend:billing") != sender(Published(app_id="billing"))
    assert senders.user("service:orders") != sender(Published(headers={SERVICE: "orders"}))


def test_anonymous_events_are_distinguished_by_their_subject() -> None:
    assert sender(Published(), "ana/O-1") != sender(Published(), "ana/O-2")
    assert sender(Published(exchange="a"), "O-1") != sender(Published(exchange="b"), "O-1")


def test_a_retried_event_keeps_its_sender() -> None:
    back = Published(exchange="", headers={SENDER: "backend:billing"})
    assert sender(back, was_deferred=True) == "backend:billing"


def test_a_header_cannot_forge_a_sender() -> None:
    assert sender(Published(app_id="crook", headers={SENDER: "backend:billing"})) == "backend:crook"
