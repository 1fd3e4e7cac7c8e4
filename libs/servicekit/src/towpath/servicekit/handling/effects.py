"""Effects: calls to the outside (HTTP, SMTP, a model), declared by an outcome and made after its commit.

A handler does no I/O. It names the call in its outcome (:class:`~towpath.servicekit.handling.outcome.Effect`), and
the service's table of effects has the function that makes it (:class:`EffectHandler`). The performer
(:mod:`towpath.servicekit.handling.performer`) gives the result of the call to a plain function, like an event.

Guarantees: an effect is stored if, and only if, the changes of its handler are; a name and key that are declared
again change nothing. An effect without a row in the table, or with data that its model refuses, is an error of the
handler that declares it.
"""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.servicekit.handling.outcome import Effect
from towpath.servicekit.handling.requests import Handler
from towpath.servicekit.storage import effects
from towpath.servicekit.storage.effects import NAME_MAX, Asked

_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")


class NoEffects(Exception):
    """An outcome declares an effect, and the service has no table of effects: set ``Service.effects``."""


class UnknownEffect(Exception):
    """An outcome declares an effect that ``Service.effects`` does not name."""


class EffectRefused(Exception):
    """The outside refuses the call for good: raised by ``perform``, it parks the effect without another attempt."""


@dataclass(frozen=True, slots=True)
class EffectCall:
    """One attempt to make a call.

    Attributes:
        id: The same for each attempt of one effect, and for no other effect: letters, digits and ``-``, 64 at most.
            Pass it to the outside as its idempotency key, so that a second attempt of a call that has succeeded
            changes nothing there.
        attempt: From 1.
        traceparent: The trace of the handler that declared the effect; pass it on.

    Example:
        >>> call = EffectCall(id="charge-1f0c", attempt=1, traceparent="")
        >>> {"Idempotency-Key": call.id}
        {'Idempotency-Key': 'charge-1f0c'}
    """

    id: str
    attempt: int
    traceparent: str


class EffectParked(BaseModel):
    """An effect that has failed for good, as ``EffectHandler.parked`` gets it.

    Attributes:
        data: That of the effect.
        error: The last error, one line.

    Example:
        >>> parked = EffectParked(effect="charge", key="o-1", data={"cents": 5}, error="no card", attempts=3)
        >>> parked.data["cents"]
        5
    """

    effect: str
    key: str
    data: dict[str, Any]
    error: str
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectHandler:
    """One row of a service's table of effects: the model of its data, the call, and the functions for its end.

    ``perform`` is the only function of a service that does I/O for a request. It is ``async``, is cancelled after
    ``time_limit``, and may be called more than once for one effect: after a failure, and after its process died
    before the result was stored. It raises :class:`EffectRefused` where another attempt would not help, and any other
    exception where one may.

    ``done`` and ``parked`` are handlers like those of events: a model, and a plain function ``(payload, unit of
    work)``, where the unit of work has loaded a request with that payload. Their outcome may have pushes, events and
    effects, committed with the end of the row: so they take effect once.

    Attributes:
        model: The pydantic model of the effect's data.
        perform: ``(data, call)``: makes the call, and returns the payload for ``done``; see :class:`EffectCall`.
        done: Handles what ``perform`` returned, which is of its model; ``None`` if there is nothing to do.
        parked: Handles an :class:`EffectParked`; ``None`` if there is nothing to do.
        time_limit: Seconds that one attempt may take.
        attempts: After so many the effect is parked.
        first_wait: Seconds before the second attempt; each further wait is twice as long, with jitter.
        longest_wait: No wait is longer, in seconds.
        concurrency: Calls at the same time on each replica.

    Raises:
        ValueError: A limit is out of range.

    Example:
        >>> from towpath.servicekit import Handler, Outcome
        >>> class Charge(BaseModel):
        ...     order_id: str
        ...     cents: int
        >>> class Charged(BaseModel):
        ...     order_id: str
        >>> async def charge(request: Charge, call: EffectCall) -> Charged:
        ...     # await http.post(…, headers={"Idempotency-Key": call.id})
        ...     return Charged(order_id=request.order_id)
        >>> def charged(result: Charged, book: object) -> Outcome:
        ...     return Outcome()
        >>> handler = EffectHandler(model=Charge, perform=charge, done=Handler(Charged, charged))
        >>> [handler.wait_after(attempt) for attempt in (1, 2, 3, 20)]
        [5.0, 10.0, 20.0, 3600.0]
    """

    model: type[BaseModel]
    perform: Callable[[Any, EffectCall], Awaitable[BaseModel | None]]
    done: Handler | None = None
    parked: Handler | None = None
    time_limit: float = 30.0
    attempts: int = 10
    first_wait: float = 5.0
    longest_wait: float = 3600.0
    concurrency: int = 8

    def __post_init__(self) -> None:
        for name, least, most in _LIMITS:
            if not least <= getattr(self, name) <= most:
                raise ValueError(
                    f"{name}={getattr(self, name)} of the effect of {self.model.__name__}: must be {least} to {most}"
                )

    def wait_after(self, attempt: int) -> float:
        """The longest wait after a failed attempt, in seconds; the wait is at least half as long."""
        return float(min(self.longest_wait, self.first_wait * 2 ** min(attempt - 1, 32)))


_LIMITS: Final = (
    ("time_limit", 0.001, 3600),
    ("attempts", 1, 1000),
    ("first_wait", 0.001, 86_400),
    ("longest_wait", 0.001, 86_400),
    ("concurrency", 1, 1000),
)
EffectHandlers = Mapping[str, EffectHandler]


def is_effect_name(name: str) -> bool:
    """Whether ``name`` can be that of an effect: a word as in an action."""
    return len(name) <= NAME_MAX and _NAME.fullmatch(name) is not None


def call_id(service: str, effect: str, key: str) -> str:
    """The id of all attempts of one effect; see :class:`EffectCall`."""
    digest = hashlib.blake2b(
        "\n".join((service, effect, key)).encode("utf-8", "surrogatepass"), digest_size=16
    ).hexdigest()
    return f"{re.sub('[^a-z0-9]', '-', effect)[:31]}-{digest}"


class EffectQueue:
    """Stores the effects that outcomes declare, in the transaction of the outcome.

    Attributes:
        table: The rows.
        handlers: The service's table of effects.
        woken: Set when effects may have been committed.
    """

    def __init__(self, table: sa.Table, handlers: EffectHandlers) -> None:
        self.table = table
        self.handlers = handlers
        self.woken = asyncio.Event()

    async def put(self, connection: AsyncConnection, declared: Sequence[tuple[Effect, str]]) -> None:
        """Store effects, each with its traceparent.

        Raises:
            UnknownEffect: One is not in the table.
            ValidationError: The data of one do not fit its model.
        """
        await effects.put(
            connection, self.table, [self._asked(effect, traceparent) for effect, traceparent in declared]
        )

    def wake(self) -> None:
        """Signal that effects may have been committed."""
        self.woken.set()

    def _asked(self, effect: Effect, traceparent: str) -> Asked:
        if (handler := self.handlers.get(effect.name)) is None:
            raise UnknownEffect(
                f"there is no effect {effect.name!r} in Service.effects, which has "
                f"{', '.join(sorted(self.handlers)) or 'none'}"
            )
        data = effect.data
        # Also of its own model: one that was changed after it was made is found here, and not by the call.
        checked = handler.model.model_validate(data if not isinstance(data, BaseModel) else data.model_dump())
        return Asked(
            effect.name,
            effect.key,
            checked.model_dump_json(),
            traceparent,
            int(effect.after * 1000),
        )
