"""``towpath revoke``: tokens that gateways refuse before they expire.

Guarantees: a revocation is published only after the log was read, and only if fewer than ``revocations_max`` are
active; when the command ends, the broker has confirmed it, and every gateway reads it. Nothing of a token but its id
is sent or shown. The broker drops the oldest part of the log, so what is still active in its older half is published
again, together.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import jwt
import typer
from pydantic import Field

from towpath.gateway.forwarding.revoking import LOG, MARKER
from towpath.protocol import revocations as protocol
from towpath.protocol.errors import BadEnvelope
from towpath.protocol.revocations import DAYS_MAX, TOKEN_ID_CHARACTERS, Kind, Revocation
from towpath.protocol.routes import PUSH, check_user_id
from towpath.servicekit.broker.interface import Broker, Delivery, Message
from towpath.servicekit.messaging.log_reader import LogReader
from towpath.servicekit.runtime.settings import BrokerSettings, load
from towpath.tools import times
from towpath.tools.operating import run, who
from towpath.tools.token import BadUser
from towpath.tools.trouble import Trouble

APP_ID: Final = "towpath-revoke"
#: How long tokens may live, where neither ``--for`` nor the token says it.
_DEFAULT_SECONDS: Final = 30 * 86_400.0
#: Seconds to read the log: 80,000 messages, its most, take less than 10.
_READ_SECONDS: Final = 60.0
#: Bytes that RabbitMQ stores beside a body, measured.
_OVERHEAD: Final = 250
#: Revocations in one message, where they are published again.
_TOGETHER: Final = 500
_MAX_TOKEN_BYTES: Final = 1024 * 1024


class BadRevocation(Trouble):
    """An invalid revocation."""

    status = 2


class NotRevoked(Trouble):
    """The revocation was not published."""


class RevokeSettings(BrokerSettings):
    """See :class:`towpath.gateway.settings.GatewaySettings`."""

    revocations_max: Annotated[int, Field(ge=1)] = protocol.ACTIVE_MAX


@dataclass(frozen=True, slots=True)
class Asked:
    """The options, as typed."""

    user: str | None = None
    token_id: str | None = None
    token: Path | None = None
    issued_before: str | None = None
    lasts: str | None = None
    reason: str = ""
    list_: bool = False
    compact: bool = False

    def revocation(self, now: float) -> tuple[Kind, Revocation]:
        """The revocation to publish.

        Raises:
            BadRevocation, BadTime, BadUser
        """
        until = now + _DEFAULT_SECONDS
        token_id = self.token_id
        if self.token is not None:
            token_id, until = _read_token(self.token, until)
        if self.lasts is not None:
            until = now + times.seconds(self.lasts, option="--for")
        if until > now + DAYS_MAX * 86_400:
            raise BadRevocation(f"it would last longer than {DAYS_MAX} days, for which revocations are kept")
        if len(self.reason) > protocol.NOTE_CHARACTERS:
            raise BadRevocation(f"--reason has more than {protocol.NOTE_CHARACTERS} characters")
        by = who()[: protocol.NOTE_CHARACTERS]
        if self.user is not None:
            try:
                check_user_id(self.user)
            except ValueError as error:
                raise BadUser(f"user {self.user[:70]!a} cannot be used: {error}") from None
            return Kind.USER, Revocation(until, user_id=self.user, before=now, by=by, reason=self.reason)
        if token_id is not None:
            if not 0 < len(token_id) <= TOKEN_ID_CHARACTERS:
                raise BadRevocation(
                    f"a token id has 1 to {TOKEN_ID_CHARACTERS} characters, this one {len(token_id)}"
                )
            return Kind.TOKEN, Revocation(until, token_id=token_id, by=by, reason=self.reason)
        assert self.issued_before is not None
        before = now
        if self.issued_before != "now":
            before = times.since(self.issued_before, option="--issued-before") / 1000
        if not 0 < before <= now:
            # One mistyped year would refuse all tokens, and the log cannot be edited.
            raise BadRevocation(
                f"--issued-before {self.issued_before!a} is not in the past; `now` is the latest"
            )
        return Kind.ISSUED_BEFORE, Revocation(until, before=before, by=by, reason=self.reason)


class Known:
    """The revocations in the log, as far as it was read: the newest of each subject, with its place."""

    def __init__(self, now: float) -> None:
        self._now = now
        self._size = 0
        self._found: dict[tuple[Kind, str], tuple[Revocation, int]] = {}

    async def take(self, deliveries: Iterable[Delivery]) -> None:
        """Add what messages of the log hold."""
        for delivery in deliveries:
            self._size += len(delivery.body) + _OVERHEAD
            if (kind := protocol.kind_of(delivery.routing_key)) is None:
                continue
            for item in protocol.read(kind, delivery.body):
                if not isinstance(item, BadEnvelope) and item.until > self._now:
                    self._add(kind, item)

    def _add(self, kind: Kind, item: Revocation) -> None:
        place = self._size
        if (known := self._found.get((kind, item.subject(kind)))) is not None:
            older, older_place = known
            if older.before > item.before or older.until > item.until:
                # The later of two times is only in the older one.
                place = older_place
                item = Revocation(
                    max(older.until, item.until),
                    item.user_id,
                    item.token_id,
                    max(older.before, item.before),
                    item.by,
                    item.reason,
                )
        self._found[kind, item.subject(kind)] = (item, place)

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, subject: tuple[Kind, str]) -> bool:
        return subject in self._found

    def __iter__(self) -> Iterator[tuple[Kind, Revocation]]:
        return ((kind, item) for (kind, _), (item, _) in self._found.items())

    def in_older_half(self) -> Iterator[tuple[Kind, list[Revocation]]]:
        """Those that the broker would drop first, in the messages to publish them again in."""
        oldest = self._size - LOG.max_bytes // 2
        for kind in Kind:
            due = [item for (of, _), (item, place) in self._found.items() if of is kind and place < oldest]
            for first in range(0, len(due), _TOGETHER):
                yield kind, due[first : first + _TOGETHER]


def carry_out(asked: Asked, *, as_json: bool, data: Path) -> None:
    """Do what was asked, and say so.

    Raises:
        BadRevocation, NotRevoked
    """
    now = time.time()
    chosen = [
        asked.user,
        asked.token_id,
        asked.token,
        asked.issued_before,
        asked.list_ or None,
        asked.compact or None,
    ]
    if sum(one is not None for one in chosen) != 1:
        raise BadRevocation("give one of --user, --jti, --token, --issued-before, --list and --compact")
    new = None if asked.list_ or asked.compact else asked.revocation(now)
    most = load(RevokeSettings).revocations_max

    async def work(broker: Broker) -> None:
        known = await _read(broker, now)
        if asked.list_:
            for kind, item in known:
                typer.echo(json.dumps(_as_dict(kind, item)) if as_json else _line(kind, item))
            return
        if new is not None:
            await _revoke(broker, known, *new, most)
            typer.echo(f"revoked: {_line(*new)}")
        again = 0
        for kind, items in known.in_older_half():
            await _publish(broker, kind, items)
            again += len(items)
        if again or asked.compact:
            typer.echo(f"{len(known)} active, {again} written again")

    run(work, data, "revoke")


async def _revoke(broker: Broker, known: Known, kind: Kind, item: Revocation, most: int) -> None:
    if len(known) >= most and (kind, item.subject(kind)) not in known:
        raise NotRevoked(
            f"{len(known)} revocations are active, and the maximum is {most} (TOWPATH_REVOCATIONS_MAX): "
            "revoke a user, or all tokens issued before a time"
        )
    await _publish(broker, kind, [item])


async def _publish(broker: Broker, kind: Kind, items: list[Revocation]) -> None:
    # Mandatory: without the log's binding the broker would confirm it, and drop it.
    await broker.publish(PUSH, kind.key, Message(body=protocol.write(items), app_id=APP_ID), mandatory=True)


async def _read(broker: Broker, now: float) -> Known:
    known = Known(now)
    reader = LogReader(broker, LOG, MARKER, known.take)
    reading = asyncio.create_task(reader.run())
    current = asyncio.create_task(reader.until_current())
    try:
        await asyncio.wait([reading, current], timeout=_READ_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            await reading
        if not current.done():
            raise NotRevoked(f"{LOG.name} could not be read within {_READ_SECONDS:g} s; nothing was done")
        return known
    finally:
        for task in (reading, current):
            task.cancel()
        await asyncio.wait([reading, current])


def _read_token(path: Path, until: float) -> tuple[str, float]:
    """The id of a token, and its expiry. Its signature is not checked: a forged one revokes only what it names."""
    try:
        with sys.stdin.buffer if str(path) == "-" else path.open("rb") as file:
            text = file.read(_MAX_TOKEN_BYTES).decode()
        claims = jwt.decode(text.strip(), options={"verify_signature": False})
    except (OSError, ValueError, jwt.PyJWTError) as error:
        # Without the text of the error, which may quote the token.
        raise BadRevocation(
            f"--token {str(path)!a}: no token can be read there ({type(error).__name__})"
        ) from None
    token_id, expires = claims.get("jti"), claims.get("exp")
    if not isinstance(token_id, str):
        raise BadRevocation(f"--token {str(path)!a} has no id (claim jti): revoke the tokens of its user")
    return token_id, float(expires) if isinstance(expires, int | float) else until


def _as_dict(kind: Kind, item: Revocation) -> dict[str, Any]:
    told = {"kind": str(kind), "user_id": item.user_id, "token_id": item.token_id, "before": item.before}
    told |= {"until": item.until, "by": item.by, "reason": item.reason}
    return {name: value for name, value in told.items() if value}


def _line(kind: Kind, item: Revocation) -> str:
    named = f"the token {item.token_id!a}" if kind is Kind.TOKEN else "tokens"
    if kind is Kind.USER:
        named += f" of {item.user_id!a}"
    if kind is not Kind.TOKEN:
        named += f" issued until {_when(item.before)}"
    notes = f", by {item.by!a}" if item.by else ""
    notes += f": {item.reason!a}" if item.reason else ""
    return f"{named}, until {_when(item.until)}{notes}"


def _when(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, OSError, ValueError):
        return str(seconds)
