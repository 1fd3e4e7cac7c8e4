"""The plan of selective routing: who is here, what is bound for them, what to do next. No I/O, and no clock.

Guarantees, whatever happens in whatever order:

* Whoever :meth:`Plan.reached` says is reached has a binding of their own that was confirmed, or all catch-alls stand
  and were confirmed. So nobody is told to wait for what they miss.
* Catch-alls go only once everybody here has a binding of their own, and they are counted on no more from the moment
  that somebody begins to remove them.
* There are at most ``most`` bindings of single users. More users than that, a binding that fails, or more who wait
  than can be bound soon: back to the catch-alls, and nobody waits.

Steps are done one at a time. A step that fails leaves what it does in doubt: a binding that may exist is removed in
time; for all other steps whoever does them gives up the inbox, and calls :meth:`Plan.begin`.
"""

import enum
from dataclasses import dataclass


class Do(enum.Enum):
    """What a step does."""

    BIND = enum.auto()  #: bind for one user
    UNBIND = enum.auto()  #: remove the binding of one user
    CATCH_ALL = enum.auto()  #: bind the catch-alls
    CATCH_NONE = enum.auto()  #: remove the catch-alls


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done next.

    Attributes:
        user: Whom it is for, with BIND and UNBIND.
        reason: Why, with CATCH_ALL.
    """

    do: Do
    user: str = ""
    reason: str = ""


class Plan:
    """What one inbox is bound to, and should be. Times are in seconds, of a clock that never goes back.

    Args:
        most: Bindings of single users at most.
        waiting_most: Users who may wait for their binding at once.
        patience: How long one of them may.
        linger: How long a binding stays that nobody needs.
        calm: How long a fresh inbox, and one that fell back, stays with the catch-alls.

    Attributes:
        everything: Whether the catch-alls stand, and may be counted on.
        selective: Whether they are gone, confirmed.
        turns: How often they were removed.
    """

    def __init__(self, *, most: int, waiting_most: int, patience: float, linger: float, calm: float) -> None:
        self._most = most
        self._waiting_most = waiting_most
        self._patience = patience
        self._linger = linger
        self._calm = calm
        self._here: dict[str, int] = {}  # to the number of connections
        self._binds = 0
        self.turns = 0
        self.begin(0.0)

    def begin(self, now: float) -> None:
        """Begin with a fresh inbox: it has the catch-alls, and nothing else."""
        self.everything, self.selective = True, False
        self._calm_at = now + self._calm
        self._failed = False
        self._unbound = dict.fromkeys(self._here, now)  # here and not bound: since when, oldest first
        self._bound: dict[str, int] = {}  # confirmed: which bind it was
        self._doubtful: set[str] = set()  # asked for, and not confirmed
        self._unneeded: dict[str, float] = {}  # bound or doubtful, and not here: since when, oldest first

    # Who is here

    def arrive(self, user: str, now: float) -> None:
        """Count one more connection of a user; who is not :meth:`reached` now must wait."""
        self._here[user] = self._here.get(user, 0) + 1
        if self._here[user] == 1:
            self._unneeded.pop(user, None)
            if user not in self._bound:
                self._unbound[user] = now

    def leave(self, user: str, now: float) -> None:
        """Count one connection less, also of one that still waits."""
        self._here[user] -= 1
        if not self._here[user]:
            del self._here[user]
            self._unbound.pop(user, None)
            if user in self._bound or user in self._doubtful:
                self._unneeded[user] = now

    def reached(self, user: str) -> bool:
        """Whether what is published for this user, who is here, comes into the inbox."""
        return self.everything or user in self._bound

    # What is bound

    @property
    def users(self) -> int:
        """How many users are here."""
        return len(self._here)

    @property
    def bindings(self) -> int:
        """How many bindings of single users there are, or may be."""
        return len(self._bound) + len(self._doubtful)

    def sample(self) -> tuple[str, int] | None:
        """A user with a binding, another each time, and which bind that was."""
        if not self._bound:
            return None
        user = next(iter(self._bound))
        self._bound[user] = bind = self._bound.pop(user)
        return user, bind

    def stands(self, user: str, bind: int) -> bool:
        """Whether that binding still stands."""
        return self._bound.get(user) == bind

    # What to do

    def take(self, now: float) -> Step | None:
        """The next step, if there is one; it must be told how that went before the next is asked for."""
        if not self.everything:
            if reason := self._trouble(now):
                return Step(Do.CATCH_ALL, reason=reason)
        elif now < self._calm_at or len(self._here) > self._most:
            return self._take_unneeded(now)
        if self._unbound:
            user = next(iter(self._unbound))
            if user not in self._doubtful and self.bindings >= self._most:
                return self._unbind(next(iter(self._unneeded)))
            return Step(Do.BIND, user)
        if self.everything:
            self.everything = False
            self.turns += 1
            return Step(Do.CATCH_NONE)
        return self._take_unneeded(now)

    def done(self, step: Step, now: float) -> None:
        """The broker has confirmed a step."""
        if step.do is Do.CATCH_ALL:
            self.everything, self.selective = True, False
            self._failed = False
            self._calm_at = now + self._calm
        elif step.do is Do.CATCH_NONE:
            self.selective = True
        elif step.do is Do.BIND:
            self._unbound.pop(step.user, None)
            self._doubtful.discard(step.user)
            self._binds += 1
            self._bound[step.user] = self._binds
            if step.user not in self._here:
                self._unneeded[step.user] = now

    def bind_failed(self, step: Step, now: float) -> None:
        """Nobody knows what became of a BIND."""
        self._doubtful.add(step.user)
        if step.user not in self._here:
            self._unneeded[step.user] = now
        self._failed = not self.everything
        self._calm_at = now + self._calm

    def due(self, now: float) -> float | None:
        """When there may be a step without anything having happened until then."""
        times = [self._calm_at] if self.everything else []
        if self._unneeded:
            times.append(next(iter(self._unneeded.values())) + self._linger)
        return min((time for time in times if time > now), default=None)

    def _trouble(self, now: float) -> str:
        """Why single bindings will not do any more."""
        if self._failed:
            return "a binding failed"
        if len(self._here) > self._most:
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
        # From now on it is not counted on: who comes back meanwhile is bound again.
        del self._unneeded[user]
        self._bound.pop(user, None)
        self._doubtful.discard(user)
        return Step(Do.UNBIND, user)
