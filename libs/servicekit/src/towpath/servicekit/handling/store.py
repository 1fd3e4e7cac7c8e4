"""Storage: what a service keeps, as it declares it (:class:`Storage`) and as the kit opens it (:class:`Store`)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.servicekit.handling.requests import Request
from towpath.servicekit.storage.database import Database
from towpath.servicekit.storage.group_numbers import Groups
from towpath.servicekit.storage.outbox import OutboxTables
from towpath.servicekit.storage.streams import StreamTables


class UnitOfWork(Protocol):
    """The state that handlers read and change."""

    async def load(self, requests: Sequence[Request]) -> None:
        """Read all rows that ``requests`` name, in a few queries; lock rows that may change, in one fixed order."""
        ...

    async def save(self) -> None:
        """Write all changes in bulk."""
        ...


U = TypeVar("U", bound=UnitOfWork)


@dataclass(frozen=True, slots=True)
class Storage(Generic[U]):
    """The tables of a service, its unit of work and its migrations.

    Attributes:
        unit: Creates a unit of work on a connection.
        migrations: The Alembic folder.
        groups: For a service that subscribes connections to groups.
        outbox: For the messages of timers; ``None`` if timers publish nothing.
    """

    inbox: sa.Table
    streams: StreamTables
    unit: Callable[[AsyncConnection], U]
    migrations: Path
    groups: Groups | None = None
    outbox: OutboxTables | None = None


@dataclass(frozen=True, slots=True)
class Store(Generic[U]):
    """The open storage of a service, and the factory of its units of work.

    Attributes:
        groups: For a service that subscribes connections to groups.
    """

    database: Database
    inbox: sa.Table
    streams: StreamTables
    unit: Callable[[AsyncConnection], U]
    groups: Groups | None = None
