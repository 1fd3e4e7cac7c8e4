"""A transactional outbox for SQLAlchemy: events that are committed with the changes that they report.

::

    OUTBOX = outbox_table(metadata)

    with Session(engine) as session:
        session.add(Payment(order_id="o-1"))
        add_event(session, "order.paid", {"order_id": "o-1", "user_id": "ana"}, aggregate="order:o-1")
        session.commit()

Guarantees: a commit publishes, a rollback does not, and nothing is lost in between; ``towpath-relay`` publishes the
events of one aggregate in the order of their commits. The relay needs PostgreSQL; on other databases the events are
stored, so that tests of a program may look at them.
"""

import inspect
from collections.abc import Awaitable, Mapping
from typing import Any, Final, overload

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from towpath.protocol.envelope import BARE_ACTIONS, Envelope
from towpath.publisher.errors import BadEvent, PublisherError
from towpath.publisher.message import Event, envelope_of
from towpath.publisher.sql import (
    AGGREGATE_MAX_BYTES,
    DATA_MAX_BYTES,
    TABLE,
    missing,
    outbox_sql,
    outbox_statements,
)

__all__ = ["OutboxMissing", "add_event", "outbox_sql", "outbox_statements", "outbox_table"]

_JSON: Final = msgspec.json.Encoder(decimal_format="number")
#: Of an envelope; an outbox has no column for them.
_NOT_KEPT: Final = ("key", "ack", "correlation_id", "stream", "seq", "traceparent", "tracestate")
_PUBLISH: Final = sa.text("SELECT towpath_publish(:action, CAST(:data AS jsonb), :aggregate, :msg_id)")
#: https://www.postgresql.org/docs/current/errcodes-appendix.html
_UNDEFINED: Final = ("42883", "42P01", "3F000")
_FORBIDDEN: Final = "42501"


class OutboxMissing(PublisherError):
    """The database has no outbox, or the user has no right to it; the text names the command that makes it."""


def outbox_table(metadata: sa.MetaData, *, schema: str | None = None) -> sa.Table:
    """The table of the outbox, as a part of ``metadata``.

    ``metadata.create_all`` on PostgreSQL makes the function ``towpath_publish``, too. In a migration of Alembic use
    ``for statement in outbox_statements(): op.execute(statement)``.

    Args:
        schema: By default that of ``metadata``, else ``public``.
    """
    table = sa.Table(
        TABLE,
        metadata,
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), sa.Identity(), primary_key=True),
        sa.Column("aggregate", sa.Text),
        sa.Column("msg_id", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("data", sa.Text().with_variant(JSONB, "postgresql"), nullable=False),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.func.current_timestamp(),
        ),
        sa.Column("parked_at", sa.DateTime(timezone=True)),
        sa.Column("reason", sa.Text),
        schema=schema,
    )

    def complete(_: sa.Table, connection: sa.Connection, **__: Any) -> None:
        if connection.dialect.name == "postgresql":
            for statement in outbox_statements(table.schema or "public"):
                connection.exec_driver_sql(statement)

    sa.event.listen(table, "after_create", complete)
    return table


@overload
def add_event(
    session: Session | sa.Connection,
    event: Event | str,
    data: Mapping[str, Any] | None = None,
    *,
    aggregate: str | None = None,
    msg_id: str | None = None,
) -> str: ...
@overload
def add_event(
    session: AsyncSession | AsyncConnection,
    event: Event | str,
    data: Mapping[str, Any] | None = None,
    *,
    aggregate: str | None = None,
    msg_id: str | None = None,
) -> Awaitable[str]: ...
def add_event(
    session: Session | sa.Connection | AsyncSession | AsyncConnection,
    event: Event | str,
    data: Mapping[str, Any] | None = None,
    *,
    aggregate: str | None = None,
    msg_id: str | None = None,
) -> str | Awaitable[str]:
    """Add an event to the outbox, as a part of the transaction of ``session``; returns its ``msg_id``.

    With an async session or connection, await the result.

    Args:
        event: An envelope, or an action such as ``order.paid``.
        data: Of an action.
        aggregate: The thing whose events keep their order, such as ``order:o-1``. Until the end of this transaction
            other transactions wait that add an event of it. ``None``: in any order.
        msg_id: Of an action; a new one by default.

    Raises:
        BadEvent: The event cannot be published; nothing is added.
        OutboxMissing: The database has no outbox.
    """
    row = _row(envelope_of(event, data, msg_id), aggregate)
    if inspect.iscoroutinefunction(session.execute):
        return _add_async(session, row)
    return _add(session, row)


def _add(session: Any, row: Mapping[str, Any]) -> str:
    connection = session if isinstance(session, sa.Connection) else session.connection()
    try:
        session.execute(_statement(connection.dialect.name, row))
    except sa.exc.DBAPIError as error:
        _raise_if_missing(error)
        raise
    return str(row["msg_id"])


async def _add_async(session: Any, row: Mapping[str, Any]) -> str:
    connection = session if isinstance(session, AsyncConnection) else await session.connection()
    try:
        await session.execute(_statement(connection.dialect.name, row))
    except sa.exc.DBAPIError as error:
        _raise_if_missing(error)
        raise
    return str(row["msg_id"])


def _statement(dialect: str, row: Mapping[str, Any]) -> sa.Executable:
    if dialect == "postgresql":
        # The function checks once more, keeps the order of the aggregate, and wakes the relay.
        return _PUBLISH.bindparams(**{name: row[name] for name in ("action", "data", "aggregate", "msg_id")})
    return sa.insert(sa.table(TABLE, *(sa.column(name) for name in row))).values(row)


def _row(envelope: Envelope, aggregate: str | None) -> Mapping[str, Any]:
    if envelope.action in BARE_ACTIONS:
        raise BadEvent(
            f"{envelope.action!r} is not an event: an event is named domain.verb, such as 'order.paid'",
            msg_id=envelope.msg_id,
        )
    if lost := [name for name in _NOT_KEPT if getattr(envelope, name) is not None]:
        raise BadEvent(
            f"an outbox keeps action, data and msg_id of an event; {', '.join(lost)} would be lost: leave it out",
            msg_id=envelope.msg_id,
        )
    if aggregate is not None and not 1 <= len(aggregate.encode()) <= AGGREGATE_MAX_BYTES:
        raise BadEvent(
            f"aggregate={aggregate[:100]!r}: 1 to {AGGREGATE_MAX_BYTES} bytes, such as 'order:o-1', or None",
            msg_id=envelope.msg_id,
        )
    try:
        data = _JSON.encode(envelope.data).decode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadEvent(
            f"the data of {envelope.action!r} cannot be sent as JSON: {error}", msg_id=envelope.msg_id
        ) from None
    if "\\u0000" in data or "\0" in (aggregate or ""):
        # Also of an escaped backslash before u0000, which is rare enough to be refused with it.
        raise BadEvent(
            f"the data of {envelope.action!r} has the character U+0000, which PostgreSQL does not store: remove it",
            msg_id=envelope.msg_id,
        )
    size = len(data.encode())
    if size > DATA_MAX_BYTES:
        raise BadEvent(
            f"the data of {envelope.action!r} has {size} bytes, more than {DATA_MAX_BYTES}: store the content "
            "elsewhere, and publish a link to it",
            msg_id=envelope.msg_id,
        )
    return {
        "aggregate": aggregate,
        "msg_id": envelope.msg_id,
        "action": envelope.action,
        "data": data,
        "bytes": size,
    }


def _raise_if_missing(error: sa.exc.DBAPIError) -> None:
    original = error.orig
    state = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    if state in _UNDEFINED or "no such table" in str(original):
        raise OutboxMissing(missing()) from error
    if state == _FORBIDDEN:
        raise OutboxMissing(
            f"the user of this database may not add events: {original}. "
            "Run `towpath-relay install --publisher USER` as the user that owns the outbox"
        ) from error
