"""Finds public rooms by the beginning of their names.

Guarantees: a private room and a room of two are never found. A page reads no more rows than it lists, and one: the
index on the names of public rooms gives them in order, so a million rooms cost no more than a hundred. The number of
statements does not depend on the number of requests (except one statement per 200).
"""

from collections.abc import Iterable
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.chat.domain import title
from towpath.chat.tables import PUBLIC
from towpath.protocol.chat import FindRooms, FoundRoom, FoundRooms
from towpath.servicekit import batched

#: No letter comes after it.
_LAST_LETTER: Final = "\U0010ffff"
#: SQLite allows 500 at most: https://www.sqlite.org/limits.html#max_compound_select
_SELECTS_A_STATEMENT: Final = 200

_FOUND: Final = """
    SELECT * FROM (
        SELECT {number} AS number, room, title, members FROM chat_rooms
        WHERE {public} AND room {after} :after_{number} AND room {before} :before_{number}
        ORDER BY room {using} LIMIT {limit} + 1
    ) AS found_{number}
"""
#: Operators that compare by code point, by database. PostgreSQL's others depend on the collation of the database:
#: https://www.postgresql.org/docs/current/indexes-opclass.html
_OPERATORS: Final = {
    "sqlite": {">=": ">=", ">": ">", "<": "<", "using": ""},
    "postgresql": {">=": "~>=~", ">": "~>~", "<": "~<~", "using": "USING ~<~"},
}


async def read_found(connection: AsyncConnection, wanted: Iterable[FindRooms]) -> dict[FindRooms, FoundRooms]:
    """The public rooms that each request finds, by name."""
    asked = list(dict.fromkeys(wanted))
    found: list[list[sa.Row[Any]]] = [[] for _ in asked]
    for part in batched(list(enumerate(asked)), _SELECTS_A_STATEMENT):
        statement, parameters = statement_of(connection.dialect.name, part)
        for row in await connection.execute(sa.text(statement), parameters):
            found[row.number].append(row)
    return {request: _page(request, rows) for request, rows in zip(asked, found, strict=True)}


def statement_of(dialect: str, asked: Iterable[tuple[int, FindRooms]]) -> tuple[str, dict[str, str]]:
    """One statement for some requests, each with its number, and its parameters."""
    selects, parameters, operators = [], {}, _OPERATORS[dialect]
    for number, request in asked:
        # The cursor is a name that was listed: an earlier page ended there.
        after = request.cursor if request.cursor is not None and request.cursor >= request.prefix else None
        selects.append(
            _FOUND.format(
                number=number,
                public=PUBLIC.text,
                after=operators[">=" if after is None else ">"],
                before=operators["<"],
                using=operators["using"],
                limit=request.limit,  # a checked integer
            )
        )
        parameters[f"after_{number}"] = request.prefix if after is None else after
        parameters[f"before_{number}"] = request.prefix + _LAST_LETTER
    return " UNION ALL ".join(selects), parameters


def _page(request: FindRooms, rows: list[sa.Row[Any]]) -> FoundRooms:
    rows.sort(key=lambda row: str(row.room))
    rooms = [
        FoundRoom(room=row.room, title=title(row.room, row.title, ""), members=row.members)
        for row in rows[: request.limit]
    ]
    return FoundRooms(rooms=rooms, cursor=rooms[-1].room if len(rows) > request.limit else None)
