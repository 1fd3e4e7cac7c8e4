"""The mails of a trial: an SMTP server that refuses some for the moment, and the verdict about what it accepted.

A mail is accepted twice for one of two reasons. The sending process was killed between the server's acceptance and
the commit of its end: SMTP leaves that open, and both have one ``Message-ID``. Or the service is wrong. Here they are
distinguished by time: a kill of a replica that closely follows the first acceptance explains the second one, and
nothing else does.
"""

import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import sqlalchemy as sa

from towpath.notifications.mail import SEND_MAIL
from towpath.notifications.tables import ITEMS, KIT
from towpath.servicekit.handling.effects import call_id
from towpath.testkit.postbox import Postbox

from .storage import reading

#: Seconds from an acceptance to a kill that may have prevented its commit.
_COMMIT_SECONDS: Final = 2.0
#: Of the first deliveries, so many may be refused, and each of them with this probability.
_DELIVERIES: Final = 60
_REFUSED: Final = 0.15
_TITLE: Final = re.compile(r"^Order (\S+) (\w+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Mails:
    """Evidence about mails.

    Attributes:
        declared: The state of each effect that sends one, by its message id.
        accepted: When the server accepted it, on the clock of :attr:`kills`, by message id.
        titles: The notifications that a mail is about, by message id: each by the address and the title.
        kills: When replicas of the sending service were killed.
        undecided: Notifications whose mail is not declared yet.
    """

    declared: Mapping[str, str] = field(default_factory=dict)
    accepted: Mapping[str, Sequence[float]] = field(default_factory=dict)
    titles: Mapping[str, frozenset[str]] = field(default_factory=dict)
    kills: Sequence[float] = ()
    undecided: int = 0

    @property
    def doubled_by_kills(self) -> int:
        """How many acceptances repeat one whose sender was killed at that moment."""
        return sum(self._explained(times) for times in self.accepted.values())

    def summary(self) -> str:
        """The counts, in words."""
        repeated = sum(len(times) - 1 for times in self.accepted.values())
        return (
            f"{len(self.accepted)} mails, doubled by retries {repeated - self.doubled_by_kills}, "
            f"by a kill at the acceptance {self.doubled_by_kills}"
        )

    def judge(self) -> Iterator[str]:
        """A sentence for each mail that is lost, unknown, or doubled by the service itself."""
        for name, state in sorted(self.declared.items()):
            if state != "done":
                yield f"the mail {name} is {state}"
            elif name not in self.accepted:
                yield f"the mail {name} is done, and the server has not seen it"
        for name, times in sorted(self.accepted.items()):
            if name not in self.declared:
                yield f"the mail {name} was never declared"
            if own := len(times) - 1 - self._explained(times):
                yield f"the mail {name} was doubled {own} times, and no process was killed"
        if self.undecided:
            yield f"{self.undecided} notifications wait for their mail"
        told = Counter(title for titles in self.titles.values() for title in titles)
        for title, count in sorted(told.items()):
            if count > 1:
                yield f"{title} is in {count} mails"

    def _explained(self, times: Sequence[float]) -> int:
        return sum(any(at <= kill <= at + _COMMIT_SECONDS for kill in self.kills) for at in times[:-1])


class PostOffice:
    """The SMTP server of a trial.

    Attributes:
        settings: Of a notifications service that sends its mails here at once, also to people who are connected.
    """

    def __init__(self, box: Postbox) -> None:
        self._box = box
        self._times: list[float] = []
        self._kills: list[float] = []
        self.settings: dict[str, Any] = {
            "smtp_host": "127.0.0.1",
            "smtp_port": box.port,
            "smtp_tls": "none",
            "smtp_from": "news@shop.example",
            # A lease of a dead replica ends after 10 of them and 15 s.
            "smtp_timeout": 2.0,
            "mail_window": 0.3,
            "mails_per_day": 10_000,
            # The gateways announce themselves less often: so nearly all people count as offline, and get mails.
            "gateway_silence": 0.2,
        }

    @classmethod
    @asynccontextmanager
    async def open(cls, chance: Random) -> AsyncIterator["PostOffice"]:
        """A running server, which refuses some of the first mails for the moment."""
        async with Postbox.open() as box:
            box.replies = [
                "451 Try again later" if chance.random() < _REFUSED else "250 Accepted"
                for _ in range(_DELIVERIES)
            ]
            office = cls(box)
            box.on_accept = lambda: office._times.append(time.monotonic())
            yield office

    def killed(self) -> None:
        """Note that a replica of the sending service was killed at this moment."""
        self._kills.append(time.monotonic())

    async def read(self, notifications_url: str) -> Mails:
        """Everything that was sent, and was to be sent."""
        effects = KIT.effects.c
        async with reading(notifications_url) as connection:
            rows = (await connection.execute(sa.select(effects.key, effects.state))).all()
            waiting = sa.select(sa.func.count()).where(ITEMS.c.mail_at.is_not(None))
            undecided = (await connection.execute(waiting)).scalar_one()
        accepted: dict[str, list[float]] = {}
        titles: dict[str, frozenset[str]] = {}
        for mail, at in zip(self._box.mails, self._times, strict=True):
            name = str(mail["Message-ID"]).strip("<>").partition("@")[0]
            accepted.setdefault(name, []).append(at)
            plain = mail.get_body(("plain",))
            assert plain is not None, f"the mail {name} has no plain text"
            found = _TITLE.findall(plain.get_content())
            titles[name] = frozenset(f"{mail['To']}: {order} {step}" for order, step in found)
        return Mails(
            declared={call_id("notifications", SEND_MAIL, row.key): row.state for row in rows},
            accepted=accepted,
            titles=titles,
            kills=list(self._kills),
            undecided=undecided,
        )
