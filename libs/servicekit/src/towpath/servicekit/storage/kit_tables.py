"""The tables of the kit: inbox, streams, outbox, group numbers and effects of one service.

Guarantees: a service declares all of them with one call, and they are created and kept up to date by the kit's own
migrations (:mod:`towpath.servicekit.storage.migrations`). Their names begin with the name of the service, so services
may share a database.
"""

from dataclasses import dataclass

import sqlalchemy as sa

from towpath.servicekit.storage.effects import effects_table
from towpath.servicekit.storage.group_numbers import numbers_table
from towpath.servicekit.storage.inbox import inbox_table
from towpath.servicekit.storage.outbox import OutboxTables
from towpath.servicekit.storage.streams import StreamTables


@dataclass(frozen=True, slots=True)
class KitTables:
    """The kit's tables of one service; made with :meth:`define`.

    Attributes:
        inbox: ``<service>_inbox``, see :mod:`towpath.servicekit.storage.inbox`.
        streams: ``<service>_streams`` and ``<service>_stream_entries``.
        outbox: ``<service>_outbox`` and ``<service>_outbox_lease``, for services whose timers or effects publish.
        group_numbers: ``<service>_group_numbers``, for services that subscribe connections to groups.
        effects: ``<service>_effects``, for services that call the outside.

    Example:
        >>> metadata = sa.MetaData()
        >>> kit = KitTables.define(metadata, "orders")
        >>> kit.inbox.name
        'orders_inbox'
        >>> len(metadata.tables)
        7
    """

    inbox: sa.Table
    streams: StreamTables
    outbox: OutboxTables
    group_numbers: sa.Table
    effects: sa.Table

    @classmethod
    def define(cls, metadata: sa.MetaData, service: str) -> "KitTables":
        """Declare all tables of the kit.

        Args:
            metadata: That of the service's own tables.
            service: The name of the service; its tables have it in front.
        """
        return cls(
            inbox_table(metadata, service),
            StreamTables.define(metadata, service),
            OutboxTables.define(metadata, service),
            numbers_table(metadata, service),
            effects_table(metadata, service),
        )
