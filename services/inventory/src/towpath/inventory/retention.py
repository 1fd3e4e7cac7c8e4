"""Retention of reservations: those that have ended are deleted after a while."""

from collections.abc import Callable
from typing import Final

import sqlalchemy as sa

from towpath.inventory.domain import State
from towpath.inventory.tables import RESERVATIONS
from towpath.protocol.envelope import now_ms
from towpath.servicekit import TimerRun

#: Rows that one run deletes at most.
STEP: Final = 1000
_ENDED: Final = tuple(state.value for state in State if state is not State.RESERVED)


class EndedReservations:
    """Deletes reservations that ended more than ``retention`` seconds ago.

    Args:
        clock: Unix milliseconds.
    """

    def __init__(self, retention: float, clock: Callable[[], int] = now_ms) -> None:
        self._retention_ms = int(retention * 1000)
        self._clock = clock

    async def forget(self, run: TimerRun) -> bool:
        """Delete some; returns whether there may be more."""
        keys = (RESERVATIONS.c.user_id, RESERVATIONS.c.order_id)
        is_old = sa.and_(
            RESERVATIONS.c.state.in_(_ENDED), RESERVATIONS.c.changed_at < self._clock() - self._retention_ms
        )
        async with run.database.transaction() as connection:
            some = sa.select(*keys).where(is_old).limit(STEP)
            # Checked again: a row that another transaction holds may have changed meanwhile.
            gone = await connection.execute(RESERVATIONS.delete().where(sa.tuple_(*keys).in_(some), is_old))
        return gone.rowcount >= STEP
