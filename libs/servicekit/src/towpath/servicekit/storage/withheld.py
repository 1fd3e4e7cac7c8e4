"""Withheld fields: content that a user can delete or edit is stored in one table, and in no stream entry.

An entry about something that was changed or deleted is stored with blank fields and with ``about``, the ``seq`` of
its subject. When the entry is published again, the fields are filled with the current values. One user may get other
fields than the other readers: a user who blocks the author gets none of the content.

Guarantees:

* Once the transaction is committed, a withheld field is in no stored entry.
* An entry is published again with the fields that ``fill`` returns, else unchanged, byte for byte. An entry that
  ``fill`` omits is not published.
* The number of statements does not depend on the number of entries.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.protocol.routes import user_key
from towpath.servicekit.storage import bulk

#: A stream and a ``seq`` in it.
EntryId = tuple[str, int]
#: Fields of ``data``.
Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Hidden:
    """Fields of a place of which one user gets other ones.

    Attributes:
        fields: For all other readers.
        user_id: The user who gets ``instead``.

    Example:
        >>> Hidden({"text": "secret"}, user_id="ana", instead={"text": ""}).instead
        {'text': ''}
    """

    fields: Fields
    user_id: str
    instead: Fields


#: Returns the current fields of each place: the fields to set, or an empty mapping to leave the entry unchanged.
#: Omitted entries no longer exist.
Fill = Callable[[AsyncConnection, Collection[EntryId]], Awaitable[Mapping[EntryId, Fields | Hidden]]]


@dataclass(frozen=True, slots=True)
class HiddenEntry:
    """An entry of which one user gets another text; the fields are as in :class:`Hidden`."""

    text: bytes
    user_id: str
    instead: bytes

    def __len__(self) -> int:
        return len(self.text)

    def read_by(self, user_id: str) -> bytes:
        """The text that ``user_id`` gets."""
        return self.instead if user_id == self.user_id else self.text


#: The publishable text of an entry.
Entry = bytes | HiddenEntry

_MARK: Final = '{"about":'
_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENCODER: Final = msgspec.json.Encoder()


def withhold(entry: str, about: int, blank: Fields) -> str:
    """The entry to be stored instead of ``entry``.

    Args:
        entry: The JSON of an envelope.
        about: The ``seq`` of the entry's subject, in the same stream.
        blank: Replacements in ``data`` for the withheld fields.

    Example:
        >>> withhold('{"action":"chat.message","data":{"user":"ana","text":"secret"}}', 4, {"text": ""})
        '{"about":4,"action":"chat.message","data":{"user":"ana","text":""}}'
    """
    envelope = _OBJECT.decode(entry)
    envelope.pop("about", None)
    # `about` first, so that `is_withheld` compares a prefix and parses nothing.
    return _ENCODER.encode({"about": about, **_with_fields(envelope, blank)}).decode()


def is_withheld(entry: str) -> bool:
    """Whether a stored entry has withheld fields."""
    return entry.startswith(_MARK)


async def read(
    connection: AsyncConnection, entries: sa.Table, ids: Collection[EntryId]
) -> list[tuple[EntryId, str]]:
    """The stored entries with these ids, as far as there are any."""
    if not ids:
        return []
    asked = bulk.pair_values(connection, [(stream, str(seq)) for stream, seq in ids])
    rows = await connection.execute(_read(connection.dialect.name, entries), asked)
    return [((row.stream, row.seq), row.envelope) for row in rows]


@lru_cache(maxsize=256)
def _read(dialect: str, entries: sa.Table) -> sa.Select[Any]:
    asked = bulk.pairs(dialect).subquery()
    # A join: for a row value that contains a number SQLite would use only the stream column of the index.
    here = sa.and_(entries.c.stream == asked.c[0], entries.c.seq == sa.cast(asked.c[1], sa.BigInteger))
    return sa.select(entries.c.stream, entries.c.seq, entries.c.envelope).join(asked, here)


def read_by(user_id: str, entries: Sequence[Entry]) -> list[bytes]:
    """The texts that ``user_id`` gets."""
    return [entry if isinstance(entry, bytes) else entry.read_by(user_id) for entry in entries]


def published_with(entry: Entry | None, routing_key: str) -> bytes | None:
    """The text of a push with ``routing_key``; nothing remains nothing."""
    if not isinstance(entry, HiddenEntry):
        return entry
    return entry.instead if routing_key == user_key(entry.user_id) else entry.text


async def read_by_now(
    connection: AsyncConnection, entries: sa.Table, fill: Fill | None, ids: Collection[EntryId]
) -> dict[EntryId, Entry]:
    """The current publishable text of the entries with these ids; entries no longer stored are left out."""
    found = await read(connection, entries, ids)
    if fill is None:
        return {place: entry.encode() for place, entry in found}
    return await filled(connection, fill, found)


async def filled(
    connection: AsyncConnection, fill: Fill, found: Iterable[tuple[EntryId, str]]
) -> dict[EntryId, Entry]:
    """The current publishable text of the stored entries ``found``."""
    about = [(_about(place, entry), place, entry) for place, entry in found]
    if not about:
        return {}
    # One query for all subjects, also if several entries have the same one.
    fields = await fill(connection, {subject for subject, _, _ in about})
    return {place: _filled(entry, fields[subject]) for subject, place, entry in about if subject in fields}


async def fill_page(
    connection: AsyncConnection, fill: Fill | None, rows: Sequence[Any]
) -> list[tuple[EntryId, Entry]]:
    """The current publishable text of a page of entries, in order; queries only entries with withheld fields."""
    if fill is None:
        return [((row.stream, row.seq), row.envelope.encode()) for row in rows]
    # Most pages have none, and cost no query and no parsing.
    withheld = [((row.stream, row.seq), row.envelope) for row in rows if is_withheld(row.envelope)]
    if not withheld:
        return [((row.stream, row.seq), row.envelope.encode()) for row in rows]
    known = await filled(connection, fill, withheld)
    page: list[tuple[EntryId, Entry]] = []
    for row in rows:
        place = (row.stream, row.seq)
        if not is_withheld(row.envelope):
            page.append((place, row.envelope.encode()))
        # Else its subject is deleted: the entry is left out.
        elif place in known:
            page.append((place, known[place]))
    return page


def _about(place: EntryId, entry: str) -> EntryId:
    if not is_withheld(entry):
        return place
    return place[0], int(msgspec.json.decode(_OBJECT.decode(entry)["about"]))


def _filled(entry: str, fields: Fields | Hidden) -> Entry:
    if isinstance(fields, Hidden):
        return HiddenEntry(_with(entry, fields.fields), fields.user_id, _with(entry, fields.instead))
    return _with(entry, fields)


def _with(entry: str, fields: Fields) -> bytes:
    # Byte for byte as it was first pushed: not parsed, and not encoded again.
    if not fields and not is_withheld(entry):
        return entry.encode()
    envelope = _OBJECT.decode(entry)
    envelope.pop("about", None)
    return _ENCODER.encode(_with_fields(envelope, fields))


def _with_fields(envelope: dict[str, msgspec.Raw], fields: Fields) -> dict[str, Any]:
    return {**envelope, "data": {**_OBJECT.decode(envelope["data"]), **fields}}
