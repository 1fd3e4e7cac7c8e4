"""The plan of selective routing: connected users, their bindings, and the next step. No I/O, and no clock.

Guarantees, for events in any order:

* A user for whom :meth:`Plan.reached` is true has a confirmed binding of their own, or all catch-alls exist and are
  confirmed. So no user is welcomed while their pushes would be missed.
* Catch-alls are removed only once every connected user has a binding of their own, and they no longer count from the
  moment that their removal begins.
* There are at most ``most`` bindings of single users. With more users, a failed binding, or more waiting users than
  can be bound soon, the catch-alls are bound again, and no user waits.

Steps run one at a time. The effect of a failed step is unknown: a binding that may exist is removed in time; after
any other failed step the caller replaces the inbox, and calls :meth:`Plan.begin`.
"""

import enum
from dataclasses import dataclass


class StepKind(enum.Enum):
    """The kind of a step."""

    BIND = enum.auto()  #: bind for one user
    UNBIND = enum.auto()  #: remove the binding of one user
    CATCH_ALL = enum.auto()  #: bind the catch-alls
    CATCH_NONE = enum.auto()  #: remove the catch-alls


@dataclass(frozen=True, slots=True)
class Step:
    """The next thing to do.

    Attributes:
        user: The user, for BIND and UNBIND.
        reason: The reason, for CATCH_ALL.
    """

    kind: StepKind
    user: str = ""
    reason: str = ""


class Plan:
    """The actual and desired bindings of one inbox. Times are in seconds, of a monotonic clock.

    Args:
        most: Maximum number of bindings of single users.
        waiting_most: Maximum number of users who wait for their binding at once.
        patience: Maximum time that a user waits.
        linger: How long an unneeded binding stays.
        calm: How long a new inbox, or one after a fallback, keeps the catch-alls.

    Attributes:
        everything: Whether the catch-alls exist and count.
        selective: Whether their removal is confirmed.
        removals: How often they were removed.
    """

    def __init__(self, *, most: int, waiting_most: int, patience: float, linger: float, calm: float) -> None:
        self._most = most
        self._waiting_most = waiting_most
        self._patience = patience
        self._linger = linger
        self._calm = calm
        self._connections: dict[str, int] = {}  # User → number of connections.
        self._binds = 0
        self.removals = 0
        self.begin(0.0)

    def begin(self, now: float) -> None:
        """Start with a new inbox, which has only the catch-alls."""
        self.everything, self.selective = True, False
        self._calm_at = now + self._calm
        self._failed = False
        self._unbound = dict.fromkeys(
            self._connections, now
        )  # Connected and not bound → since when, oldest first.
        self._bound: dict[str, int] = {}  # Confirmed bindings → number of the bind.
        self._unconfirmed: set[str] = set()  # Requested, and not confirmed.
        # Bound or unconfirmed, and not connected → since when, oldest first.
        self._unneeded: dict[str, float] = {}

    # Connected users

    def arrive(self, user: str, now: float) -> None:
        """Add a connection of a user; if :meth:`reached` is false now, it must wait."""
        self._connections[user] = self._connections.get(user, 0) + 1
        if self._connections[user] == 1:
            self._unneeded.pop(user, None)
            if user not in self._bound:
                self._unbound[user] = now

    def leave(self, user: str, now: float) -> None:
        """Remove a connection, also one that still waits."""
        self._connections[user] -= 1
        if not self._connections[user]:
            del self._connections[user]
            self._unbound.pop(user, None)
            if user in self._bound or user in self._unconfirmed:
                self._unneeded[user] = now

    def reached(self, user: str) -> bool:
        """Whether pushes to this connected user reach the inbox."""
        return self.everything or user in self._bound

    # Bindings

    @property
    def users(self) -> int:
        """Number of connected users."""
        return len(self._connections)

    @property
    def bindings(self) -> int:
        """Number of bindings of single users that exist or may exist."""
        return len(self._bound) + len(self._unconfirmed)

    def sample(self) -> tuple[str, int] | None:
        """A user with a binding, a different one each time, and the number of the bind."""
        if not self._bound:
            return None
        user = next(iter(self._bound))
        # To the end, so that the samples go round.
        self._bound[user] = bind = self._bound.pop(user)
        return user, bind

    def binding_exists(self, user: str, bind: int) -> bool:
        """Whether that binding still exists."""
        return self._bound.get(user) == bind

    # Steps

    def next_step(self, now: float) -> Step | None:
        """The next step, if any; its result must be reported before the next call."""
        if not self.everything:
            if reason := self._fallback_reason(now):
                return Step(StepKind.CATCH_ALL, reason=reason)
        # No push is missed meanwhile, since the catch-alls count. Too many users stay with them.
        elif now < self._calm_at or len(self._connections) > self._most:
            return self._take_unneeded(now)
        if self._unbound:
            user = next(iter(self._unbound))
            if user not in self._unconfirmed and self.bindings >= self._most:
                # There is one: this user is connected and has no binding, so of at least `most` bindings some other
                # is unneeded.
                return self._unbind(next(iter(self._unneeded)))
            return Step(StepKind.BIND, user)
        if self.everything:
            # Before the step: while it runs, the catch-alls may be gone already.
            self.everything = False
            self.removals += 1
            return Step(StepKind.CATCH_NONE)
        return self._take_unneeded(now)

    def done(self, step: Step, now: float) -> None:
        """Record a confirmed step."""
        if step.kind is StepKind.CATCH_ALL:
            self.everything, self.selective = True, False
            self._failed = False
            self._calm_at = now + self._calm
        elif step.kind is StepKind.CATCH_NONE:
            self.selective = True
        elif step.kind is StepKind.BIND:
            self._unbound.pop(step.user, None)
            self._unconfirmed.discard(step.user)
            self._binds += 1
            self._bound[step.user] = self._binds
            # The user left while the step ran.
            if step.user not in self._connections:
                self._unneeded[step.user] = now

    def bind_failed(self, step: Step, now: float) -> None:
        """Record a BIND with unknown result."""
        # It may exist: it counts against `most`, and is removed in time.
        self._unconfirmed.add(step.user)
        if step.user not in self._connections:
            self._unneeded[step.user] = now
        # With the catch-alls no user waits for it, so it is only tried again, after a calm time.
        self._failed = not self.everything
        self._calm_at = now + self._calm

    def due(self, now: float) -> float | None:
        """When the next step may be due without any further event."""
        times = [self._calm_at] if self.everything else []
        if self._unneeded:
            times.append(next(iter(self._unneeded.values())) + self._linger)
        return min((time for time in times if time > now), default=None)

    def _fallback_reason(self, now: float) -> str:
        """The reason to fall back to the catch-alls, or an empty text."""
        if self._failed:
            return "a binding failed"
        if len(self._connections) > self._most:
            return f"more than {self._most} users"
        if len(self._unbound) > self._waiting_most:
            return f"more than {self._waiting_most} users wait for their binding"
        if self._unbound and now - next(iter(self._unbound.values())) > self._patience:
            return f"a user waits for more than {self._patience:g} s"
        return ""

    def _take_unneeded(self, now: float) -> Step | None:
        for user, since in self._unneeded.items():
            return self._unbind(user) if now - since >= self._linger else None
        return None

    def _unbind(self, user: str) -> Step:
        # From now on it does not count: a user who returns meanwhile is bound again.
        del self._unneeded[user]
        self._bound.pop(user, None)
        self._unconfirmed.discard(user)
        return Step(StepKind.UNBIND, user)
