"""Limits: what one connection, one user and one address may ask of this replica.

The cost of a message is the weight of its action and a token for each 16 KiB. A weight says what the action costs
others: services publish it for their actions (:mod:`towpath.gateway.costs`). Guarantees:

* A connection, a user with all connections, and an address each get what their token bucket gives
  (:mod:`towpath.gateway.buckets`); a refusal costs none of them anything.
* A connection that goes on after refusals is closed with 4005 after ``rate_strikes`` of them.
* A request counts as in flight until it is answered, and a user has at most ``inflight_per_user`` of them by weight,
  also over connections that come and go. One request is always allowed.
"""

import asyncio
from typing import Final

from towpath.gateway.buckets import Bucket, Buckets, Rate
from towpath.gateway.settings import GatewaySettings
from towpath.protocol.close_codes import CloseCode
from towpath.servicekit.telemetry import Telemetry

#: Bytes that cost a token.
TOKEN_BYTES: Final = 16 * 1024
_STRIKE_SECONDS: Final = 60.0
#: What a closed connection had asked for counts for so long: services still work on it.
_ORPHANED_SECONDS: Final = 5.0

Key = tuple[str, str]


class InFlight:
    """What one user waits for, over all connections here.

    Each request is kept with its weight, and when it is given up: an answer may never come.
    """

    __slots__ = ("_requests", "used")

    def __init__(self) -> None:
        self._requests: dict[Key, tuple[float, float]] = {}  # oldest first
        self.used = 0.0

    def __bool__(self) -> bool:
        return bool(self._requests)

    def add(self, key: Key, weight: float, deadline: float) -> None:
        """One more; the same request again counts once."""
        self.remove(key)
        self._requests[key] = weight, deadline
        self.used += weight

    def remove(self, key: Key) -> float:
        """It is answered; returns what it weighed."""
        weight, _ = self._requests.pop(key, (0.0, 0.0))
        self.used = self.used - weight if self._requests else 0.0
        return weight

    def give_up(self, now: float) -> list[tuple[Key, float]]:
        """Forget those whose time is over; returns them with their weights."""
        over: list[tuple[Key, float]] = []
        for key, (weight, deadline) in self._requests.items():
            if deadline <= now:
                over.append((key, weight))
        for key, _ in over:
            self.remove(key)
        return over

    def hurry(self, connection_id: str, deadline: float) -> None:
        """The connection is gone: give its requests up by ``deadline``."""
        for key, (weight, until) in self._requests.items():
            if key[0] == connection_id:
                self._requests[key] = weight, min(until, deadline)


class Allowance:
    """What one connection may still ask for."""

    __slots__ = ("_address", "_connection_id", "_limits", "_own", "_strikes", "in_flight", "used", "user_id")

    def __init__(self, limits: "Limits", connection_id: str, user_id: str, address: str, now: float) -> None:
        self._limits = limits
        self._connection_id = connection_id
        self.user_id = user_id
        self._address = address
        self._own = Bucket(limits.connection, now)
        self._strikes = Bucket(limits.strikes, now)
        self.in_flight = limits.in_flight_of(user_id)
        self.used = 0.0

    def charge(self, cost: float) -> float:
        """Take ``cost`` tokens; returns 0, or the seconds after which to try again."""
        limits, now = self._limits, self._limits.now()
        if wait := self._own.take(cost, now):
            limits.refused["connection"].add(1)
            return wait
        # Looked up each time: a bucket that is full is forgotten, and another made when it is asked for.
        user = limits.users.of(self.user_id, now)
        if wait := user.take(cost, now):
            self._own.give_back(cost)
            limits.refused["user"].add(1)
            return wait
        if wait := limits.addresses.of(self._address, now).take(cost, now):
            self._own.give_back(cost)
            user.give_back(cost)
            limits.refused["address"].add(1)
            return wait
        return 0.0

    def strike(self) -> bool:
        """Count a refusal; returns whether there were too many of them."""
        return self._strikes.take(1.0, self._limits.now()) > 0

    def begin(self, msg_id: str, weight: float) -> str | None:
        """Count a request as in flight; returns ``None``, or whose limit it would exceed."""
        limits, now = self._limits, self._limits.now()
        for limit, used, whose in (
            (limits.inflight_per_connection, self.used, "connection"),
            (limits.inflight_per_user, self.in_flight.used, "user"),
        ):
            if used and used + weight > limit:
                self._give_up(now)
                used = self.used if whose == "connection" else self.in_flight.used
                if used and used + weight > limit:
                    limits.busy[whose].add(1)
                    return whose
        key = self._connection_id, msg_id
        self.used -= self.in_flight.remove(key)
        self.in_flight.add(key, weight, now + limits.patience)
        self.used += weight
        return None

    def end(self, msg_id: str) -> None:
        """The request is answered."""
        if msg_id:
            self.used -= self.in_flight.remove((self._connection_id, msg_id))

    def count_abuse(self, code: CloseCode) -> None:
        """The connection is about to be closed for going on over a limit."""
        self._limits.abused[code].add(1)

    def close(self) -> None:
        """The connection is gone."""
        self._limits.close(self.user_id, self._connection_id)

    def _give_up(self, now: float) -> None:
        for (connection_id, _), weight in self.in_flight.give_up(now):
            if connection_id == self._connection_id:
                self.used -= weight


class Limits:
    """The limits of this replica, shared by its connections."""

    def __init__(self, settings: GatewaySettings, telemetry: Telemetry) -> None:
        self.now = asyncio.get_running_loop().time
        self.connection = Rate(settings.rate_per_connection, settings.burst_per_connection)
        self.users: Buckets[str] = Buckets(Rate(settings.rate_per_user, settings.burst_per_user))
        self.addresses: Buckets[str] = Buckets(Rate(settings.rate_per_address, settings.burst_per_address))
        self.strikes = Rate(settings.rate_strikes / _STRIKE_SECONDS, settings.rate_strikes)
        self.inflight_per_connection = settings.inflight_per_connection
        self.inflight_per_user = settings.inflight_per_user
        self.patience = settings.inflight_patience
        self._in_flight: dict[str, InFlight] = {}
        self._connections: dict[str, int] = {}
        self.refused = {
            kind: telemetry.counter("rate_limited", "Frames over a rate limit", {"limit": kind})
            for kind in ("connection", "user", "address")
        }
        self.abused = {
            code: telemetry.counter(
                "connections_abused",
                "Connections closed for going on over a limit",
                {"code": str(int(code))},
            )
            for code in (CloseCode.RATE_LIMIT_ABUSED, CloseCode.PROTOCOL_VIOLATED)
        }
        self.busy = {
            kind: telemetry.counter("inflight_refused", "Requests over an in-flight limit", {"limit": kind})
            for kind in ("connection", "user")
        }

    def open(self, connection_id: str, user_id: str, address: str) -> Allowance:
        """What a new connection may ask for; :meth:`Allowance.close` ends it."""
        self._connections[user_id] = self._connections.get(user_id, 0) + 1
        return Allowance(self, connection_id, user_id, address, self.now())

    def in_flight_of(self, user_id: str) -> InFlight:
        """What a user waits for."""
        return self._in_flight.setdefault(user_id, InFlight())

    def close(self, user_id: str, connection_id: str) -> None:
        """A connection of a user is gone."""
        self._connections[user_id] -= 1
        if not self._connections[user_id]:
            del self._connections[user_id]
        self._in_flight[user_id].hurry(connection_id, self.now() + _ORPHANED_SECONDS)
        self._forget(user_id)

    def _forget(self, user_id: str) -> None:
        if user_id in self._connections or (in_flight := self._in_flight.get(user_id)) is None:
            return
        in_flight.give_up(self.now())
        if in_flight:
            asyncio.get_running_loop().call_later(_ORPHANED_SECONDS, self._forget, user_id)
        else:
            del self._in_flight[user_id]
