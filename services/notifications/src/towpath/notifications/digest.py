"""The digest: decides which notifications become mails, and declares the effects that send them.

A notification waits for ``mail_window``. Then all that wait for its owner are decided together: they are in one mail,
or in none, and never decided again.

Guarantees: nothing is mailed to a user who is online, about a notification that is read, to a user who does not want
it (any more), or past the mails of a day. Each notification is in one mail at most: the decision, the effect and its
key are committed together, under the lock on the owner's stream. A round is a bounded step.
"""

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.notifications.domain import Person
from towpath.notifications.mail import SEND_MAIL, MailItem, SendMail
from towpath.notifications.presence import Clock, read_online
from towpath.notifications.repository import read_people, save_people
from towpath.notifications.settings import NotificationsSettings
from towpath.notifications.tables import ITEMS, STREAMS
from towpath.protocol.envelope import now_ms
from towpath.protocol.notifications import Notification, stream_of
from towpath.servicekit import Effect, Streams, TimerRun

#: Users whose mails one round decides, and notifications of a user that it reads.
_USERS: Final = 50
_ITEMS: Final = 1000


class Digest:
    """The timer work on mails."""

    def __init__(self, settings: NotificationsSettings, clock: Clock = now_ms) -> None:
        self._settings = settings
        self._clock = clock

    async def round(self, run: TimerRun) -> bool:
        """Decide what is due; returns whether there may be more."""
        settings, now = self._settings, self._clock()
        # A service that was disconnected itself has missed the events that say who is online.
        if run.connected_for < settings.gateway_silence:
            return False
        # Without a lock: a round without work must not block writers.
        is_due = ITEMS.c.mail_at <= now
        async with run.database.reading() as connection:
            due = sa.select(ITEMS.c.user_id).where(is_due).group_by(ITEMS.c.user_id).limit(_USERS)
            users = sorted((await connection.execute(due)).scalars())
        if not users:
            return False
        async with run.transaction() as connection:
            # Then all reads: another replica, or a handler, may have changed these rows before the lock.
            await Streams(connection, STREAMS).load(map(stream_of, users))
            people = await read_people(connection, users)
            heard_since = now - int(settings.gateway_silence * 1000)
            online = await read_online(connection, users, heard_since=heard_since)
            effects: list[Effect] = []
            for user in users:
                rows = await self._waiting(connection, user)
                if not rows:
                    continue
                mail = None
                if user not in online:
                    mail = mail_for(people[user], rows, now, settings)
                if mail is not None:
                    people[user].mails.add(now)
                    people[user].is_changed = True
                    effects.append(Effect(name=SEND_MAIL, key=f"{user}/{mail.last_seq}", data=mail))
                decided = sa.and_(ITEMS.c.user_id == user, ITEMS.c.seq <= rows[-1].seq)
                await connection.execute(
                    ITEMS.update().where(decided, ITEMS.c.mail_at.is_not(None)).values(mail_at=None)
                )
            await save_people(connection, people.values())
            await run.publish(connection, effects=effects)
        return len(users) == _USERS

    async def _waiting(self, connection: AsyncConnection, user: str) -> Sequence[Any]:
        rows = sa.select(ITEMS).where(ITEMS.c.user_id == user, ITEMS.c.mail_at.is_not(None))
        return (await connection.execute(rows.order_by(ITEMS.c.seq).limit(_ITEMS))).all()


def mail_for(
    person: Person, waiting: Sequence[Notification], now_ms: int, settings: NotificationsSettings
) -> SendMail | None:
    """The mail about the notifications that wait for a person who is offline; ``None`` if there is none to send.

    Args:
        waiting: Oldest first.
    """
    items = [one for one in waiting if one.seq > person.read_seq and person.wants_mail(one.kind)]
    if not items or person.email is None or not person.mails.left(now_ms, settings.mails_per_day):
        return None
    # The newest: they say how things are now.
    shown = items[-settings.mail_max_items :]
    return SendMail(
        user_id=person.user_id,
        to=person.email,
        language=person.language or settings.default_language,
        items=[MailItem(title=one.title, text=one.text, link=one.link) for one in shown],
        more=len(items) - len(shown),
        last_seq=items[-1].seq,
    )
