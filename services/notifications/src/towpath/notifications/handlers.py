"""The handlers of notifications: plain functions on the loaded unit of work, one per request and event."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from towpath.notifications.domain import KINDS
from towpath.notifications.repository import Desk
from towpath.notifications.subjects import SUBJECTS, Subject
from towpath.protocol.chat import DirectSent, InvitationSent
from towpath.protocol.envelope import make, now_ms
from towpath.protocol.fields import Payload
from towpath.protocol.messages import Session
from towpath.protocol.notifications import (
    ListNotifications,
    NotificationPage,
    NotificationsRead,
    Preferences,
    PreferencesAnswer,
    ReadNotifications,
    stream_of,
)
from towpath.protocol.orders import OrderEvent
from towpath.protocol.routes import SESSION_ALIVE, SESSION_ENDED, SESSION_STARTED
from towpath.protocol.sessions import GatewayAlive, SessionEnded, SessionStarted
from towpath.protocol.streams import Resume, ResumeAnswer
from towpath.servicekit import Handler, Handlers, Outcome, resumed, to_user


def list_notifications(request: ListNotifications, session: Session, desk: Desk) -> Outcome:
    return Outcome(answer=desk.page(session.user_id, request))


def read(request: ReadNotifications, session: Session, desk: Desk) -> Outcome:
    person, head = desk.person(session.user_id), desk.head(session.user_id)
    grew = person.read(min(request.up_to, head))  # A position ahead would hide the next notifications.
    answer = NotificationsRead(read_seq=person.read_seq, unread=max(head - person.read_seq, 0))
    change = make("notification.read", answer.model_dump())
    return Outcome(answer=answer, pushes=[to_user(session.user_id, change)] if grew else [])


def preferences(request: Preferences, session: Session, desk: Desk) -> Outcome:
    person = desk.person(session.user_id)
    # raises AddressNotYours, TooManyAddresses
    person.prefer(request, now_ms(), desk.limits.addresses_per_day)
    kinds = list(KINDS) if person.kinds is None else person.kinds
    answer = {"email": person.email, "language": desk.language(person), "kinds": kinds}
    return Outcome(answer=PreferencesAnswer.model_validate(answer))


def resume(request: Resume, session: Session, _: Desk) -> Outcome:
    return resumed(request.positions, allowed={stream_of(session.user_id)})


def on_event(subject_of: Callable[[Any], Subject], event: Any, desk: Desk) -> Outcome:
    """Notify the person whom an event concerns, once about each topic."""
    subject = subject_of(event)
    push = desk.notify(subject)
    return Outcome(pushes=[] if push is None else [to_user(subject.user_id, push)])


def on_session_started(event: SessionStarted, desk: Desk) -> Outcome:
    desk.sessions.started(event)
    return Outcome()


def on_session_ended(event: SessionEnded, desk: Desk) -> Outcome:
    desk.sessions.ended(event)
    return Outcome()


def on_gateway_alive(event: GatewayAlive, desk: Desk) -> Outcome:
    desk.sessions.alive(event)
    return Outcome()


COMMANDS: Final[Handlers] = {
    "notification.list": Handler(
        ListNotifications, list_notifications, answer=NotificationPage, changes=False, cost=20
    ),
    "notification.read": Handler(ReadNotifications, read, answer=NotificationsRead),
    "notification.preferences": Handler(Preferences, preferences, answer=PreferencesAnswer),
    "notification.resume": Handler(Resume, resume, answer=ResumeAnswer, changes=False, cost=20),
}


#: The models of events that are not an order's.
_MODELS: Final[Mapping[str, type[Payload]]] = {
    "chat.direct_sent": DirectSent,
    "chat.invitation_sent": InvitationSent,
}


def _handler(event: str, subject_of: Callable[[Any], Subject]) -> Handler:
    return Handler(
        _MODELS.get(event, OrderEvent),
        partial(on_event, subject_of),
        # Distinguishes events whose sender is unknown (protocol.md, "RabbitMQ").
        subject=lambda payload: f"{payload.user_id}/{subject_of(payload).topic}",
    )


EVENTS: Final[Handlers] = {event: _handler(event, subject_of) for event, subject_of in SUBJECTS.items()} | {
    SESSION_STARTED: Handler(SessionStarted, on_session_started, changes=False, idempotent=True),
    SESSION_ENDED: Handler(SessionEnded, on_session_ended, changes=False, idempotent=True),
    SESSION_ALIVE: Handler(GatewayAlive, on_gateway_alive, changes=False, idempotent=True),
}
