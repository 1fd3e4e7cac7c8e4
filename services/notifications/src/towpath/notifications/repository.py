"""The repository of notifications: the unit of work of the handlers.

Guarantees: the number of statements does not depend on the number of requests. A change of a user's notifications,
read position or preferences holds the lock on the head of the user's stream, which is the only lock.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.notifications.domain import Daily, Person, id_of
from towpath.notifications.presence import SessionEvents
from towpath.notifications.settings import NotificationsSettings
from towpath.notifications.subjects import SUBJECTS, Subject
from towpath.notifications.tables import ITEMS, PEOPLE, STREAMS
from towpath.notifications.texts import title_and_text
from towpath.protocol.envelope import Envelope, now_ms
from towpath.protocol.notifications import (
    ListNotifications,
    Notification,
    NotificationPage,
    Preferences,
    stream_of,
)
from towpath.servicekit import Request, Streams, batched, bulk

#: SQLite allows 500 at most: https://www.sqlite.org/limits.html#max_compound_select
_PAGES_A_STATEMENT: Final = 200
_NAMES_A_STATEMENT: Final = 10_000
#: User, and the page that was asked for.
_Asked = tuple[str, ListNotifications]


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings that a desk needs.

    Attributes:
        mail_window_ms: ``None`` if no mails are sent.
    """

    language: str = "en"
    mail_window_ms: int | None = None
    addresses_per_day: int = 5

    @classmethod
    def of(cls, settings: NotificationsSettings) -> "Limits":
        window = None if settings.smtp_host is None else int(settings.mail_window * 1000)
        return cls(settings.default_language, window, settings.addresses_per_day)


class Desk:
    """Unit of work of the notifications service; see :class:`towpath.servicekit.handling.store.UnitOfWork`."""

    def __init__(self, connection: AsyncConnection, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.sessions = SessionEvents(connection)
        self._connection = connection
        self._streams = Streams(connection, STREAMS)
        self._heads: dict[str, int] = {}
        self._people: dict[str, Person] = {}
        self._known: set[str] = set()
        self._new: list[dict[str, Any]] = []
        self._pages: dict[_Asked, tuple[list[Notification], bool]] = {}

    async def load(self, requests: Sequence[Request]) -> None:
        subjects = [
            SUBJECTS[request.envelope.action](request.payload)
            for request in requests
            if request.session is None and request.envelope.action in SUBJECTS
        ]
        asking = [(request, request.session.user_id) for request in requests if request.session]
        changing = {user for request, user in asking if request.handler.changes}
        # Locks, then reads: no other transaction changes these rows before the commit.
        await self._streams.load(stream_of(user) for user in changing | {one.user_id for one in subjects})
        pages = [
            (user, request.payload)
            for request, user in asking
            if isinstance(request.payload, ListNotifications)
        ]
        # The position before the entries: what is added between the two reads is pushed after this position.
        self._heads = await _read_heads(self._connection, {user for user, _ in pages})
        users = {user for _, user in asking} | {one.user_id for one in subjects}
        self._people = await read_people(self._connection, users)
        await self._load_known(subjects)
        await self._load_pages(pages)

    def person(self, user_id: str) -> Person:
        """The preferences and the read position of a loaded user."""
        return self._people[user_id]

    def language(self, person: Person) -> str:
        """The language of a person's texts."""
        return person.language or self.limits.language

    def head(self, user_id: str) -> int:
        """The position of the stream of a loaded user, including this unit of work's entries."""
        stream = stream_of(user_id)
        return self._heads[stream] if stream in self._heads else self._streams.head(stream)

    def page(self, user_id: str, request: ListNotifications) -> NotificationPage:
        """One page of a user's notifications, newest first."""
        person, head = self._people[user_id], self._heads.get(stream_of(user_id), 0)
        found, has_more = self._pages[user_id, request]
        return NotificationPage(
            notifications=found,
            seq=head,
            read_seq=min(person.read_seq, head),
            unread=max(head - person.read_seq, 0),
            has_more=has_more,
        )

    def notify(self, subject: Subject) -> Envelope | None:
        """The durable push of a new notification; ``None`` if there is one about the topic, or it came too late."""
        user_id, person = subject.user_id, self._people[subject.user_id]
        number = id_of(user_id, _topic(subject, person))
        if not self._known.isdisjoint(_ids(subject, person)):
            return None
        self._known.add(number)
        title, text = title_and_text(self.language(person), subject.kind, subject.values)
        created_at = now_ms()
        push = self._streams.append(
            stream_of(user_id),
            "notification.new",
            lambda seq: Notification(
                id=number,
                seq=seq,
                kind=subject.kind,
                title=title,
                text=text,
                link=subject.link,
                created_at=created_at,
            ).model_dump(exclude_none=True),
        )
        window = self.limits.mail_window_ms
        wants_mail = window is not None and person.wants_mail(subject.kind)
        self._new.append(
            {"user_id": user_id, **push.data, "mail_at": created_at + (window or 0) if wants_mail else None}
        )
        return push

    async def save(self) -> None:
        await self.sessions.save()
        await bulk.insert(self._connection, ITEMS, self._new)
        await save_people(self._connection, self._people.values())
        await self._streams.save()

    async def _load_known(self, subjects: Sequence[Subject]) -> None:
        # A topic of after a later read is new by itself: read positions only grow.
        ids = sorted(set().union(*(_ids(one, self._people[one.user_id]) for one in subjects)))
        for part in batched(ids, _NAMES_A_STATEMENT):
            found = await self._connection.execute(sa.select(ITEMS.c.id).where(ITEMS.c.id.in_(part)))
            self._known.update(found.scalars())

    async def _load_pages(self, wanted: Sequence[_Asked]) -> None:
        for pages in batched(list(dict.fromkeys(wanted)), _PAGES_A_STATEMENT):
            selects = [_page_select(number, *asked) for number, asked in enumerate(pages)]
            page = sa.union_all(*(sa.select(select.subquery()) for select in selects)).subquery()
            rows = await self._connection.execute(sa.select(page).order_by(page.c.page, page.c.seq.desc()))
            found: dict[int, list[Notification]] = {number: [] for number in range(len(pages))}
            for row in rows:
                found[row.page].append(notification_of(row))
            for number, key in enumerate(pages):
                limit = key[1].limit
                self._pages[key] = found[number][:limit], len(found[number]) > limit


def notification_of(row: Any) -> Notification:
    """A row of the table as others see it."""
    fields = ("id", "seq", "kind", "title", "text", "link", "created_at")
    return Notification(**{name: getattr(row, name) for name in fields})


async def read_people(connection: AsyncConnection, users: Collection[str]) -> dict[str, Person]:
    """The preferences of ``users``; those without a row have the defaults."""
    found = {user: Person(user) for user in users}
    for part in batched(sorted(users), _NAMES_A_STATEMENT):
        for row in await connection.execute(sa.select(PEOPLE).where(PEOPLE.c.user_id.in_(part))):
            found[row.user_id] = Person(
                row.user_id,
                row.email,
                row.language,
                _kinds(row.kinds),
                row.read_seq,
                Daily(row.address_day, row.addresses),
                Daily(row.mail_day, row.mails),
                is_stored=True,
            )
    return found


async def save_people(connection: AsyncConnection, people: Iterable[Person]) -> None:
    """Write those that have changed: two statements at most."""
    changed = [person for person in people if person.is_changed]
    await bulk.insert(connection, PEOPLE, [_row(person) for person in changed if not person.is_stored])
    stored = [_row(person) for person in changed if person.is_stored]
    await bulk.update(connection, PEOPLE, stored, key=["user_id"])


def _topic(subject: Subject, person: Person) -> str:
    return f"{subject.topic}@{person.read_seq}" if subject.until_read else subject.topic


def _ids(subject: Subject, person: Person) -> set[str]:
    """The notifications of which any one makes that of ``subject`` superfluous, the same one included."""
    return {id_of(subject.user_id, topic) for topic in (_topic(subject, person), *subject.unless)}


def _kinds(stored: str | None) -> Any:
    if stored is None:
        return None
    try:
        # Also what an operator wrote, or a later version with more kinds.
        return Preferences(kinds=json.loads(stored)).kinds
    except (ValueError, ValidationError):
        return None


def _row(person: Person) -> dict[str, Any]:
    return {
        "user_id": person.user_id,
        "email": person.email,
        "language": person.language,
        "kinds": None if person.kinds is None else json.dumps(person.kinds),
        "read_seq": person.read_seq,
        "address_day": person.addresses.day,
        "addresses": person.addresses.count,
        "mail_day": person.mails.day,
        "mails": person.mails.count,
    }


async def _read_heads(connection: AsyncConnection, users: Collection[str]) -> dict[str, int]:
    heads, found = STREAMS.heads.c, dict.fromkeys(map(stream_of, users), 0)
    for part in batched(sorted(found), _NAMES_A_STATEMENT):
        for row in await connection.execute(
            sa.select(heads.stream, heads.head).where(heads.stream.in_(part))
        ):
            found[row.stream] = row.head
    return found


def _page_select(number: int, user_id: str, request: ListNotifications) -> sa.Select[Any]:
    select = sa.select(sa.literal(number).label("page"), ITEMS).where(ITEMS.c.user_id == user_id)
    if request.before_seq is not None:
        select = select.where(ITEMS.c.seq < request.before_seq)
    # One more than asked for: it shows whether there are older ones.
    return select.order_by(ITEMS.c.seq.desc()).limit(request.limit + 1)
