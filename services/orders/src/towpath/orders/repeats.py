"""Repeats: what is published again about an order, because a queue may have been missing the first time.

RabbitMQ confirms an event that no queue takes, and drops it. A consumer's queue that an operator deleted is declared
again within seconds, but the events of the meantime are lost (docs/adr/0040).

* An order with items that is still ``submitted`` is published as ``order.undecided``, first after the wait, then
  after four times as long each time, for a day. The service that decides about orders then does so, or repeats its
  decision.
* ``order.cancelled`` is published once more, with the same ``msg_id``.

Guarantees: a repeat is published if, and only if, the transaction that plans the next one commits. Replicas divide
the orders that are due. A round is a bounded step.
"""

from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa

from towpath.orders.announcements import announced, cancelled
from towpath.orders.domain import Order
from towpath.orders.rows import order_of
from towpath.orders.tables import ORDERS
from towpath.protocol.envelope import Envelope, now_ms
from towpath.protocol.orders import Status
from towpath.servicekit import TimerRun, bulk

#: Orders that one round repeats at most.
STEP: Final = 500
_KEY: Final = ("user_id", "order_id")
_GROWTH: Final = 4
_LAST_MS: Final = 86_400_000
_IS_DUE: Final = ORDERS.c.repeat_at <= sa.bindparam("now")
_ANY_DUE: Final = sa.select(sa.exists().where(_IS_DUE))
#: Locked rows are skipped: another replica repeats it, or a handler is changing it at this moment.
_DUE: Final = (
    sa.select(ORDERS)
    .where(_IS_DUE)
    .order_by(ORDERS.c.repeat_at)
    .limit(STEP)
    .with_for_update(skip_locked=True)
)


class Repeats:
    """The timer work on repeats.

    Args:
        clock: Unix milliseconds.
    """

    def __init__(self, clock: Callable[[], int] = now_ms) -> None:
        self._clock = clock

    async def round(self, run: TimerRun) -> bool:
        """Publish what is due; returns whether there may be more."""
        now = self._clock()
        # Without a lock: with SQLite a round without work must not wait for a writer.
        async with run.database.reading() as connection:
            if not (await connection.execute(_ANY_DUE, {"now": now})).scalar_one():
                return False
        async with run.transaction() as connection:
            rows = (await connection.execute(_DUE, {"now": now})).all()
            orders = [order_of(row) for row in rows]
            await bulk.update(connection, ORDERS, [_planned(order, now) for order in orders], key=_KEY)
            await run.publish(connection, events=[event for one in orders if (event := _event(one))])
        return len(rows) == STEP


def _event(order: Order) -> Envelope | None:
    match order.status:
        case Status.SUBMITTED:
            return announced("order.undecided", order, items=order.items)
        case Status.CANCELLED:
            return cancelled(order)
    return None


def _planned(order: Order, now: int) -> dict[str, Any]:
    """The order with the time of its next repeat, if there is one."""
    age = now - order.created_at
    more = order.status is Status.SUBMITTED and _GROWTH * age < _LAST_MS
    return {
        "user_id": order.user_id,
        "order_id": order.order_id,
        "repeat_at": order.created_at + _GROWTH * age if more else None,
    }
