"""Leaves: users removed from a group, stored until the gateways know it.

One replica may handle a leave while another one handles a push to the group that commits after it. Their publishes
have no common order, so the push could reach a connection that must no longer receive it. A leave is therefore
stored with the head of the group's stream, which each unit of work locks before it pushes. A push is preceded by
another ``unsubscribe`` of those users; repeating it is harmless, because membership changes are numbered
(:mod:`towpath.servicekit.storage.group_numbers`).

Guarantee: a push that is committed after a leave is published after RabbitMQ has confirmed the ``unsubscribe`` of it.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

#: About 1 MB. A leave is remembered until a unit of work loads its stream and removes it there.
_MOST_REMEMBERED: Final = 10_000
_OPTION: Final = "towpath_confirmed_leaves"
_ENCODER: Final = msgspec.json.Encoder()


class Leave(msgspec.Struct, frozen=True, array_like=True):
    """One user removed from one group; made by ``Streams.remove_member``, read from ``Streams.leaves``.

    Attributes:
        user_id: All connections of this user are unsubscribed.
        group: The name of the group, as in ``Outcome.unsubscribe``.
        token: Distinguishes this leave from other leaves of the same user.

    Example:
        >>> Leave("ana", "chat:lobby", token="5f2c").group
        'chat:lobby'
    """

    user_id: str
    group: str
    token: str


_DECODER: Final = msgspec.json.Decoder(list[Leave])


class ConfirmedLeaves:
    """The leaves whose ``unsubscribe`` is confirmed, as far as this program knows; the oldest are dropped.

    A dropped leave is published once more.
    """

    def __init__(self) -> None:
        self._tokens: OrderedDict[str, None] = OrderedDict()

    def add(self, leaves: Iterable[Leave]) -> None:
        """Record that RabbitMQ has confirmed the ``unsubscribe`` of these leaves."""
        for leave in leaves:
            self._tokens[leave.token] = None
        while len(self._tokens) > _MOST_REMEMBERED:
            self._tokens.popitem(last=False)

    def left_of(self, stored: str | None) -> list[Leave]:
        """The leaves of a stream that are not confirmed."""
        if not stored:
            return []
        return [leave for leave in _DECODER.decode(stored) if leave.token not in self._tokens]


def with_confirmed_leaves(confirmed: ConfirmedLeaves) -> dict[str, Any]:
    """The execution options of an engine whose connections know ``confirmed``.

    The confirmed leaves are known to one program, for one database. A unit of work gets nothing but a connection, so
    the connection leads to it: https://docs.sqlalchemy.org/en/20/core/connections.html#sqlalchemy.engine.Engine.execution_options
    """
    return {_OPTION: confirmed}


def confirmed_leaves(connection: AsyncConnection) -> ConfirmedLeaves:
    """The record of the program of ``connection``; empty for a connection without a ``Database``."""
    assert connection.sync_connection is not None
    known = connection.sync_connection.get_execution_options().get(_OPTION)
    return known if isinstance(known, ConfirmedLeaves) else ConfirmedLeaves()


def to_store(leaves: Iterable[Leave]) -> str | None:
    """The text for the head of a stream."""
    kept = list(leaves)
    return _ENCODER.encode(kept).decode() if kept else None
