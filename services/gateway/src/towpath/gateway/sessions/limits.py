"""Limits: rates and in-flight requests of one connection, one user and one address on this replica.

The cost of a message is the weight of its action plus a token for each 16 KiB; in flight it weighs one more for each
4 KiB. Services publish the weights of their actions (:mod:`towpath.gateway.forwarding.costs`). Guarantees:

* A connection, a user with all connections, and an address are each limited by a token bucket
  (:mod:`towpath.servicekit.runtime.buckets`); a refusal takes no token from any of them.
* A connection that continues after refusals is closed with 4005 after ``rate_strikes`` of them.
* Past ``inflight_paced`` unanswered requests of a user, further requests are read only as answers come.
* A request counts as in flight until it is answered. A user has at most ``inflight_per_user`` of them by weight,
  across all connections, including ended ones. One request is always allowed.
"""

import asyncio
from typing import Final

from towpath.gateway.sessions.allowance import Allowance, User
from towpath.gateway.sessions.answers import Answers
from towpath.gateway.settings import GatewaySettings
from towpath.protocol.close_codes import CloseCode
from towpath.servicekit.runtime.buckets import Bucket, Buckets, Rate
from towpath.servicekit.runtime.telemetry import Labelled, Telemetry

#: Bytes that cost a token.
TOKEN_BYTES: Final = 16 * 1024
#: Bytes that weigh as much as a small request while it is in flight: they are held by the broker and by services.
IN_FLIGHT_BYTES: Final = 4 * 1024
#: Strikes are counted over this time.
_STRIKE_SECONDS: Final = 60.0
#: Seconds that requests of a closed connection still count: services are still working on them.
_ORPHANED_SECONDS: Final = 5.0


class Limits:
    """The limits of this replica, shared by its connections."""

    def __init__(self, settings: GatewaySettings, telemetry: Telemetry) -> None:
        self.now = asyncio.get_running_loop().time
        self.connection = Rate(settings.rate_per_connection, settings.burst_per_connection)
        self._user_buckets: Buckets[str] = Buckets(Rate(settings.rate_per_user, settings.burst_per_user))
        self.rate_per_user = settings.rate_per_user
        self.refusal_cost = settings.refusal_cost
        self._addresses: Buckets[str] = Buckets(Rate(settings.rate_per_address, settings.burst_per_address))
        self.strikes = Rate(settings.rate_strikes / _STRIKE_SECONDS, settings.rate_strikes)
        self.inflight_per_connection = settings.inflight_per_connection
        self.inflight_per_user = settings.inflight_per_user
        self.inflight_paced = settings.inflight_paced
        self.patience = settings.inflight_patience
        self.answers_remembered = settings.answers_remembered
        self.answered_again = telemetry.counter(
            "answers_repeated", "Answers dropped because the client has had them"
        )
        #: By domain.
        self.answers = Labelled(lambda domain: Answers.of(domain, telemetry))
        self._users: dict[str, User] = {}
        self.refused = {
            kind: telemetry.counter("rate_limited", "Frames over a rate limit", {"limit": kind})
            for kind in ("connection", "user", "address")
        }
        self.refused_by_services = telemetry.counter(
            "requests_rate_limited_by_services", "Requests that a service answered with `rate_limited`"
        )
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

    def open(self, user_id: str, address: str) -> Allowance:
        """The allowance of a new connection; :meth:`Allowance.close` ends it."""
        now = self.now()
        user = self._users.get(user_id)
        if user is None:
            user = self._users[user_id] = User(self._user_buckets.hold(user_id, now))
        allowance = Allowance(self, user_id, user, self._addresses.hold(address, now), now)
        user.connections.add(allowance)
        return allowance

    def close(self, user_id: str, address: Bucket, waiting: float) -> None:
        """End a connection with unanswered requests of weight ``waiting``."""
        address.let_go()
        user = self._users[user_id]
        if waiting:
            # Else a client could have any number of requests in flight, by reconnecting after each window of them.
            user.adopt(waiting, self.now() + _ORPHANED_SECONDS)
        self._forget(user_id)

    def _forget(self, user_id: str) -> None:
        if (user := self._users.get(user_id)) is None or user.connections:
            return
        user.drop_expired(self.now())
        if user.is_idle:
            user.bucket.let_go()
            del self._users[user_id]
        else:
            # Its orphans have expired by then: a user who does not return must not stay in the table.
            asyncio.get_running_loop().call_later(_ORPHANED_SECONDS, self._forget, user_id)
