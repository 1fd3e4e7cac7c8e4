"""The repository of notifications: the unit of work of the handlers.

Guarantees: the number of statements does not depend on the number of requests, except one per 16 pages. A change of a
user's notifications, read position or preferences holds the lock on the head of the user's stream, which is the only
lock.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
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
from towpath.servicekit import Request, Streams, batched, bulk, read_heads

#: A statement of each number of pages is built and kept.
_PAGES_A_STATEMENT: Final = 16
#: After every ``seq``.
_LAST: Final = 2**63 - 1
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
        if ids:
            names = bulk.name_values(self._connection, ids)
            known = await self._connection.execute(_known(self._connection.dialect.name), names)
            self._known.update(known.scalars())

    async def _load_pages(self, wanted: Sequence[_Asked]) -> None:
        for pages in batched(list(dict.fromkeys(wanted)), _PAGES_A_STATEMENT):
            values: dict[str, Any] = {}
            for number, asked in enumerate(pages):
                values |= _page_values(number, *asked)
            rows = await self._connection.execute(_pages(len(pages)), values)
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
    if found:
        names = bulk.name_values(connection, sorted(found))
        for row in await connection.execute(_people(connection.dialect.name), names):
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


@cache
def _known(dialect: str) -> sa.Select[str]:
    return sa.select(ITEMS.c.id).where(bulk.one_of(dialect, ITEMS.c.id))


@cache
def _people(dialect: str) -> sa.Select[Any]:
    return sa.select(PEOPLE).where(bulk.one_of(dialect, PEOPLE.c.user_id))


async def _read_heads(connection: AsyncConnection, users: Collection[str]) -> dict[str, int]:
    found = dict.fromkeys(map(stream_of, users), 0)
    return found | await read_heads(connection, STREAMS, found)


@lru_cache(maxsize=_PAGES_A_STATEMENT)
def _pages(count: int) -> sa.Select[Any]:
    """The rows of so many pages, with the parameters of :func:`_page_values`."""
    page = sa.union_all(*(sa.select(_page(number).subquery()) for number in range(count))).subquery()
    return sa.select(page).order_by(page.c.page, page.c.seq.desc())


def _page(number: int) -> sa.Select[Any]:
    def given(name: str, kind: type[sa.types.TypeEngine[Any]]) -> sa.BindParameter[Any]:
        return sa.bindparam(f"{name}_{number}", type_=kind)

    return (
        sa.select(sa.literal_column(str(number)).label("page"), ITEMS)
        .where(ITEMS.c.user_id == given("user", sa.Text), ITEMS.c.seq < given("before", sa.BigInteger))
        .order_by(ITEMS.c.seq.desc())
        .limit(given("most", sa.Integer))
    )


def _page_values(number: int, user_id: str, request: ListNotifications) -> dict[str, Any]:
    return {
        f"user_{number}": user_id,
        f"before_{number}": _LAST if request.before_seq is None else request.before_seq,
        # One more than asked for: it shows whether there are older ones.
        f"most_{number}": request.limit + 1,
    }
