"""An allowance: what one connection may send, by its rate and by its requests in flight.

Guarantees:

* A message is charged to the connection, to its user and to its address, or to none of them: a refusal takes no
  token, so one that is retried at the advised time succeeds.
* A request counts from :meth:`Allowance.begin` until it is answered, or until its deadline: an answer may never come.
* A request that the client repeats under the same id counts once, and is answered as often as it was sent.
* A request that a service refuses as ``rate_limited`` costs its user ``refusal_cost`` tokens: a client that goes on
  is refused by the gateway, and costs the broker and the service no more.
* An answer that a service sends again, because it died before its ack, is not sent twice; only the last
  ``answers_remembered`` are known.
"""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from towpath.protocol.close_codes import CloseCode
from towpath.protocol.errors import ErrorCode
from towpath.servicekit.runtime.buckets import Bucket
from towpath.servicekit.runtime.metrics import OTHER

if TYPE_CHECKING:
    from towpath.gateway.sessions.limits import Limits


class User:
    """The limits that the connections of one user share.

    Attributes:
        connections: The allowance of each connection.
        used: Weight of the user's unanswered requests, over all connections and those that ended lately.
        waiting: Callbacks for when ``used`` is below ``inflight_paced`` again.
    """

    __slots__ = ("_orphans", "bucket", "connections", "used", "waiting")

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.connections: set[Allowance] = set()
        self.used = 0.0
        self.waiting: list[Callable[[], None]] = []
        self._orphans: deque[tuple[float, float]] = deque()  # Deadline and weight; the next one first.

    def adopt(self, weight: float, deadline: float) -> None:
        """Count the unanswered requests of an ended connection until ``deadline``."""
        # All are adopted for the same time, so the first to expire is in front.
        self._orphans.append((deadline, weight))

    def drop_expired(self, now: float) -> None:
        """Drop expired requests, on all connections."""
        for connection in self.connections:
            connection.drop_expired(now)
        while self._orphans and self._orphans[0][0] <= now:
            self.used -= self._orphans.popleft()[1]

    @property
    def is_idle(self) -> bool:
        """Whether it can be dropped (its bucket is kept separately)."""
        return not self.connections and not self._orphans


class Allowance:
    """The limits of one connection.

    Each request is stored with its weight and its deadline, because an answer may never come.
    """

    __slots__ = (
        "_address",
        "_answered",
        "_limits",
        "_own",
        "_requests",
        "_strikes",
        "_user",
        "_user_id",
        "used",
    )

    def __init__(self, limits: "Limits", user_id: str, user: User, address: Bucket, now: float) -> None:
        self._limits = limits
        self._user_id = user_id
        self._user = user
        self._address = address
        self._own = Bucket(limits.connection, now)
        self._strikes = Bucket(limits.strikes, now)
        # msg_id → weight, deadline, number of times it was sent, domain; oldest first.
        self._requests: dict[str, tuple[float, float, int, str]] = {}
        self._answered: deque[str] | None = None  # The last ones; most connections never send a request.
        self.used = 0.0

    def charge(self, cost: float) -> float:
        """Take ``cost`` tokens; returns 0, or the seconds after which to retry."""
        limits = self._limits
        now = limits.now()
        if wait := self._own.take(cost, now):
            limits.refused["connection"].add(1)
            return wait
        if wait := self._user.bucket.take(cost, now):
            self._own.give_back(cost)
            limits.refused["user"].add(1)
            return wait
        if wait := self._address.take(cost, now):
            self._own.give_back(cost)
            self._user.bucket.give_back(cost)
            limits.refused["address"].add(1)
            return wait
        return 0.0

    def strike(self) -> bool:
        """Count a refusal; returns whether there were too many of them."""
        return self._strikes.take(1.0, self._limits.now()) > 0

    def begin(self, msg_id: str, weight: float, domain: str = OTHER) -> str | None:
        """Count a request as in flight; returns ``None``, or the name of the limit that it would exceed.

        Args:
            domain: For the metrics of its answer.
        """
        limits, user = self._limits, self._user
        now = limits.now()
        # Expired requests are looked for only when a limit is reached, which keeps the usual case cheap. A request is
        # always allowed while none is in flight, or one that weighs more than the limit could never be made.
        if (self.used + weight > limits.inflight_per_connection and self.used) or (
            user.used + weight > limits.inflight_per_user and user.used
        ):
            user.drop_expired(now)
            if self.used and self.used + weight > limits.inflight_per_connection:
                limits.busy["connection"].add(1)
                return "connection"
            if user.used and user.used + weight > limits.inflight_per_user:
                limits.busy["user"].add(1)
                return "user"
        requests = self._requests
        times = 1
        if msg_id in requests:
            times += requests[msg_id][2]
            self.end(msg_id)  # the same request again counts once
        requests[msg_id] = weight, now + limits.patience, times, domain
        self.used += weight
        user.used += weight
        return None

    def is_ahead(self) -> bool:
        """Whether the user has so many unanswered requests that more are read only as answers come."""
        limits, user = self._limits, self._user
        if user.used <= limits.inflight_paced:
            return False
        user.drop_expired(limits.now())
        return user.used > limits.inflight_paced

    def when_not_ahead(self, call: Callable[[], None]) -> None:
        """Call ``call`` once, as soon as the user is no longer ahead."""
        self._user.waiting.append(call)

    def answer(self, msg_id: str, *, error: str | None = None) -> bool:
        """Record an answer to a request; returns whether to send it to the client.

        A service that died before it could ack answers again; such a repetition is dropped. A late answer to an
        expired request is sent.

        Args:
            error: The code of the error that it is, if it is one.
        """
        answered = self._answered
        if (request := self._requests.get(msg_id)) is not None:
            limits = self._limits
            weight, deadline, times, domain = request
            limits.answers[domain].record(
                limits.now() - deadline + limits.patience, is_error=error is not None
            )
            if error == ErrorCode.RATE_LIMITED:
                self._pay_refusal()
            if times > 1:  # each time that it is asked it is answered
                self._requests[msg_id] = weight, deadline, times - 1, domain
                return True
            self.end(msg_id)
            if answered is None:
                answered = self._answered = deque(maxlen=self._limits.answers_remembered)
            answered.append(msg_id)
            return True
        if answered is None or msg_id not in answered:
            return True
        self._limits.answered_again.add(1)
        return False

    def _pay_refusal(self) -> None:
        """Charge the user for a refusal by a service, so that more of them are refused here."""
        limits = self._limits
        limits.refused_by_services.add(1)
        if cost := limits.refusal_cost:
            # A second's tokens are owed at most: a client that had sent many requests before the first refusal can do
            # something else soon.
            self._user.bucket.spend(cost, limits.now(), debt=limits.rate_per_user)

    def end(self, msg_id: str) -> None:
        """Stop counting a request as in flight."""
        if (request := self._requests.pop(msg_id, None)) is not None:
            user = self._user
            # Exactly 0 when none is left: sums and differences of weights are floats, and errors would add up.
            self.used = self.used - request[0] if self._requests else 0.0
            user.used -= request[0]
            if user.waiting and user.used <= self._limits.inflight_paced:
                # Emptied first: a callback may lead to another request, which waits again.
                waiting, user.waiting = user.waiting, []
                for call in waiting:
                    call()

    def count_abuse(self, code: CloseCode) -> None:
        """Count a close for continued abuse of a limit."""
        self._limits.abused[code].add(1)

    def close(self) -> None:
        """End the connection; its unanswered requests count a little longer."""
        self._requests.clear()
        self._user.connections.discard(self)
        self._limits.close(self._user_id, self._address, self.used)
        self.used = 0.0

    def drop_expired(self, now: float) -> None:
        """Drop expired requests."""
        while self._requests:
            # The oldest expires first: all wait equally long, and a repeated request moves to the end.
            msg_id, (_, deadline, _, _) = next(iter(self._requests.items()))
            if deadline > now:
                return
            self.end(msg_id)
