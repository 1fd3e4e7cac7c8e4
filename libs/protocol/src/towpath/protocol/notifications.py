"""Payload models of the ``notification`` domain: requests, answers, pushes and events."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints

from towpath.protocol.fields import Payload

DOMAIN: Final = "notification"
STREAM_PREFIX: Final = "notification:"

Language = Literal["en", "zh"]
#: The subject of a notification: the event that causes it.
Kind = Literal[
    "order.created",
    "order.confirmed",
    "order.rejected",
    "order.paid",
    "order.packed",
    "order.shipped",
    "order.delivered",
    "order.cancelled",
    "order.refunded",
    "chat.direct",
    "chat.invited",
]
#: An address as SMTP servers without extensions take it (RFC 5321, section 4.1.2, without quoted names): one line of
#: ASCII, so that it fits a header.
Email = Annotated[
    str,
    StringConstraints(
        max_length=254,
        pattern=r"^[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
        r"@([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])$",
    ),
]
Seq = Annotated[int, Field(ge=0, lt=2**63)]


def stream_of(user_id: str) -> str:
    """The stream of all notifications of a user."""
    return STREAM_PREFIX + user_id


class ListNotifications(Payload):
    """``data`` of ``notification.list``: the newest, or those before ``before_seq``."""

    limit: Annotated[int, Field(ge=1, le=200)] = 50
    before_seq: Annotated[int, Field(ge=1, lt=2**63)] | None = None


class ReadNotifications(Payload):
    """``data`` of ``notification.read``: all up to this ``seq`` are read."""

    up_to: Seq


class Preferences(Payload):
    """``data`` of ``notification.preferences``: changes the fields that it has; ``null`` is the default.

    Attributes:
        email: Where mails go; ``null`` for no mails.
        language: Of new notifications and mails.
        kinds: Which notifications are sent as mails; ``null`` for all.
    """

    email: Email | None = None
    language: Language | None = None
    kinds: Annotated[list[Kind], Field(max_length=50)] | None = None


class PreferencesAnswer(Payload):
    """Answer to ``notification.preferences``: all of them, as they are now."""

    email: str | None = None
    language: Language
    kinds: list[Kind]


class Notification(Payload):
    """Push ``notification.new``, and one entry of ``notification.list``.

    Attributes:
        seq: Its position in the stream ``notification:<user>``.
        kind: One of :data:`Kind`; a later version may have more.
        title, text: One line each, in the language that the user had chosen at that time.
        link: ``order/<order id>`` or ``room/<name>``, percent-encoded.
        created_at: Unix milliseconds.
    """

    id: str
    seq: int
    kind: str
    title: str
    text: str
    link: str | None = None
    created_at: int


class NotificationPage(Payload):
    """Answer to ``notification.list``, newest first.

    Attributes:
        seq: The position of the stream that the answer shows: the next push has a higher one.
        read_seq: All up to here are read.
        unread: The number of notifications after ``read_seq``.
        has_more: Whether there are older ones.
    """

    notifications: list[Notification]
    seq: int
    read_seq: int
    unread: int
    has_more: bool


class NotificationsRead(Payload):
    """Answer to ``notification.read``, and the push of that name to the user's connections."""

    read_seq: int
    unread: int


class NotificationsMailed(Payload):
    """``data`` of the event ``notification.mailed``: an SMTP server has accepted a mail.

    Attributes:
        count: The number of notifications in it.
        seq: The last one.
    """

    user_id: str
    count: int
    seq: int


class NotificationsNotMailed(Payload):
    """``data`` of the event ``notification.mail_failed``: a mail was refused, or not accepted for hours."""

    user_id: str
    seq: int
    error: str


#: Push → its ``data``.
PUSHES: Final[Mapping[str, type[Payload]]] = {
    "notification.new": Notification,
    "notification.read": NotificationsRead,
}

#: Event that the service publishes → its ``data``.
EVENTS_OUT: Final[Mapping[str, type[Payload]]] = {
    "notification.mailed": NotificationsMailed,
    "notification.mail_failed": NotificationsNotMailed,
}
