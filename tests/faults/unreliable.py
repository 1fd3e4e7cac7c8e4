"""Chat or orders with handlers that fail for a moment: ``python unreliable.py chat SEED SWITCH``.

While the file SWITCH exists, each command of a user may begin to fail, in its handler or when what it changed is
saved. It fails for up to 2 s as a rule, and sometimes for longer than a service tries. Users whose id begins with
:data:`SPARED` are spared.
"""

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from pathlib import Path
from time import monotonic
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.chat.app import configured
from towpath.chat.settings import ChatSettings
from towpath.orders.app import ORDERS
from towpath.orders.settings import OrdersSettings
from towpath.servicekit import Handler, Outcome, Request, Service, run, serve_domain

SPARED: Final = "calm"
_CHANCE: Final = 0.02
_FOR_LONG: Final = 0.02
_LONG_SECONDS: Final = 4.0
_ERRORS: Final = (KeyError, RuntimeError, ZeroDivisionError)


@dataclass(slots=True)
class Moments:
    """When what fails.

    Attributes:
        switch: Nothing fails while this file is not there.
        chance: The random source.
    """

    switch: Path
    chance: random.Random
    _until: dict[tuple[str, str], float] = field(default_factory=dict)

    def strike(self, where: str, user: str) -> None:
        """Raise something, if it is the moment for it."""
        if user.startswith(SPARED) or not self.switch.exists():
            return
        now, until = monotonic(), self._until.get((where, user), 0.0)
        if now >= until and self.chance.random() < _CHANCE:
            is_long = self.chance.random() < _FOR_LONG
            until = self._until[where, user] = now + (_LONG_SECONDS if is_long else self.chance.uniform(0, 2))
        if now < until:
            raise self.chance.choice(_ERRORS)(f"{where} of {user}")


class Unit:
    """A unit of work that fails when all is written and nothing is committed."""

    def __init__(self, unit: Any, moments: Moments) -> None:
        self._unit = unit
        self._moments = moments
        self._users: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._unit, name)

    async def load(self, requests: Sequence[Request]) -> None:
        self._users |= {request.session.user_id for request in requests if request.session is not None}
        await self._unit.load(requests)

    async def save(self) -> None:
        await self._unit.save()
        for user in sorted(self._users):
            self._moments.strike("save", user)


def unreliable(service: Service[Any], moments: Moments) -> Service[Any]:
    """The same service, in which every handler may fail."""

    def failing(action: str, handler: Handler) -> Handler:
        run: Callable[..., Outcome] = handler.run

        @wraps(run)
        def fail(payload: Any, session: Any, unit: Any) -> Outcome:
            outcome = run(payload, session, unit)  # it has changed the unit of work already
            moments.strike(action, session.user_id)
            return outcome

        return replace(handler, run=fail)

    def unit(make: Callable[[AsyncConnection], Any], connection: AsyncConnection) -> Unit:
        return Unit(make(connection), moments)

    assert service.storage is not None
    return replace(
        service,
        commands={action: failing(action, handler) for action, handler in service.commands.items()},
        storage=replace(service.storage, unit=partial(unit, service.storage.unit)),
    )


if __name__ == "__main__":
    name, seed, switch = sys.argv[1:]
    moments = Moments(Path(switch), random.Random(f"{seed} {name}"))
    if name == "chat":
        run(
            name,
            lambda settings, stop: serve_domain(unreliable(configured(settings), moments), settings, stop),
            ChatSettings,
        )
    run(
        name,
        lambda settings, stop: serve_domain(unreliable(ORDERS, moments), settings, stop),
        OrdersSettings,
    )
