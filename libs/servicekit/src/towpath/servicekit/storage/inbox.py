"""The inbox: the whole outcome of every request that changed state, committed with the effect.

Guarantees: a ``(user, msg_id)`` takes effect once within the retention; a redelivery publishes the same outcome again
byte for byte, except for groups that the user may no longer receive and for fields withheld from streams since
(:mod:`towpath.servicekit.storage.withheld`); a client's repetition gets the same answer. A push that a stream
stores is kept here as a reference to the stream entry only. Growth is bounded: old rows are deleted in small steps.
"""

from collections.abc import Iterable, Mapping

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.protocol.envelope import now_ms
from towpath.servicekit.storage import bulk
from towpath.servicekit.storage.stored_outcome import StoredOutcome

Key = tuple[str, str]

_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(StoredOutcome)


def inbox_table(metadata: sa.MetaData, prefix: str) -> sa.Table:
    """Declare ``<prefix>_inbox``.

    Args:
        metadata: That of the service's own tables.
        prefix: The name of the service.

    Example:
        >>> inbox_table(sa.MetaData(), "orders").name
        'orders_inbox'
    """
    return sa.Table(
        f"{prefix}_inbox",
        metadata,
        sa.Column("sender", sa.String(300), primary_key=True),
        sa.Column("msg_id", sa.String(64), primary_key=True),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False, index=True),
    )


async def find(connection: AsyncConnection, table: sa.Table, keys: Iterable[Key]) -> dict[Key, StoredOutcome]:
    """The stored outcomes of ``keys``, for those keys that have one."""
    rows = await bulk.find(connection, table, ("sender", "msg_id"), set(keys))
    return {(row.sender, row.msg_id): _DECODER.decode(row.outcome) for row in rows}


async def store(connection: AsyncConnection, table: sa.Table, outcomes: Mapping[Key, StoredOutcome]) -> None:
    """Insert ``outcomes``; fails if a key has an outcome already."""
    if not outcomes:
        return
    now = now_ms()
    await bulk.insert(
        connection,
        table,
        [
            {
                "sender": sender,
                "msg_id": msg_id,
                "outcome": _ENCODER.encode(outcome.as_reference()).decode(),
                "created_at": now,
            }
            for (sender, msg_id), outcome in outcomes.items()
        ],
    )
