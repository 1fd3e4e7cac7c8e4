"""Leaves: users who were taken out of a group, until gateways know it.

One replica handles a leave, and another one a push to the group that is committed after it. Their publishes have no
order, so the push could reach a connection that must not hear it any more. A leave is therefore kept beside the head
of the group's stream, which each unit of work locks before it pushes. Who pushes takes those users out first: again,
which does no harm, as changes of groups are numbered (:mod:`towpath.servicekit.groups`).

Guarantee: a push that is committed after a leave is published after RabbitMQ has confirmed the ``unsubscribe`` of it.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

import msgspec

_KEPT: Final = 10_000
_ENCODER: Final = msgspec.json.Encoder()


class Leave(msgspec.Struct, frozen=True, array_like=True):
    """One user who was taken out of one group.

    Attributes:
        token: Tells this leave from others of the same user.
    """

    user_id: str
    group: str
    token: str


_DECODER: Final = msgspec.json.Decoder(list[Leave])


class Confirmed:
    """The leaves whose ``unsubscribe`` this program knows to be confirmed; the oldest are forgotten.

    A leave that is forgotten here is published once more.
    """

    def __init__(self) -> None:
        self._tokens: OrderedDict[str, None] = OrderedDict()

    def add(self, leaves: Iterable[Leave]) -> None:
        """RabbitMQ has confirmed that these users were taken out."""
        for leave in leaves:
            self._tokens[leave.token] = None
        while len(self._tokens) > _KEPT:
            self._tokens.popitem(last=False)

    def left_of(self, stored: str | None) -> list[Leave]:
        """Those leaves of a stream that are not confirmed."""
        if not stored:
            return []
        return [leave for leave in _DECODER.decode(stored) if leave.token not in self._tokens]


def to_store(leaves: Iterable[Leave]) -> str | None:
    """The text for the head of a stream."""
    kept = list(leaves)
    return _ENCODER.encode(kept).decode() if kept else None
