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
    """The state that handlers read and change: loaded once per batch, changed in memory, saved in bulk.

    One object per transaction, made by ``Storage.unit`` with the connection of the transaction. Handlers of the batch
    run between ``load`` and ``save``, one after the other.

    Example:
        A unit of work that counts in memory; a real one reads and writes with
        :mod:`towpath.servicekit.storage.bulk`.

        >>> class Visits:
        ...     def __init__(self, connection: AsyncConnection) -> None:
        ...         self._connection = connection
        ...         self.visits: dict[str, int] = {}
        ...
        ...     async def load(self, requests: Sequence[Request]) -> None:
        ...         users = {request.session.user_id for request in requests if request.session}
        ...         self.visits = dict.fromkeys(users, 0)
        ...
        ...     async def save(self) -> None:
        ...         pass
    """

    async def load(self, requests: Sequence[Request]) -> None:
        """Read all rows that ``requests`` name, in a few queries; lock rows that may change, in one fixed order.

        The order must be the same in all replicas, or two transactions wait for each other.
        """
        ...

    async def save(self) -> None:
        """Write all changes in bulk; the number of statements must not grow with the number of requests."""
        ...


U = TypeVar("U", bound=UnitOfWork)


@dataclass(frozen=True, slots=True)
class Storage(Generic[U]):
    """The tables of a service, its unit of work and its migrations.

    Attributes:
        inbox: Of the service's :class:`~towpath.servicekit.storage.kit_tables.KitTables`.
        streams: Likewise; ``None`` for a service that appends to no stream.
        unit: Creates a unit of work on a connection.
        migrations: The folder with the migrations of the service's own tables; ``None`` if it has only the kit's.
        groups: For a service that subscribes connections to groups.
        outbox: For the messages of timers and effects; ``None`` if neither publishes anything.
        effects: Of the service's ``KitTables``, for a service with ``Service.effects``.

    Example:
        >>> from towpath.servicekit import KitTables
        >>> class Notes:
        ...     def __init__(self, connection: AsyncConnection) -> None: ...
        ...     async def load(self, requests: Sequence[Request]) -> None: ...
        ...     async def save(self) -> None: ...
        >>> kit = KitTables.define(sa.MetaData(), "notes")
        >>> storage = Storage(kit.inbox, kit.streams, unit=Notes, migrations=Path("notes/migrations"))
        >>> storage.inbox.name
        'notes_inbox'
    """

    inbox: sa.Table
    streams: StreamTables | None
    unit: Callable[[AsyncConnection], U]
    migrations: Path | None = None
    groups: Groups | None = None
    outbox: OutboxTables | None = None
    effects: sa.Table | None = None


@dataclass(frozen=True, slots=True)
class Store(Generic[U]):
    """The open storage of a service: what it declares, and the database that has it."""

    storage: Storage[U]
    database: Database
