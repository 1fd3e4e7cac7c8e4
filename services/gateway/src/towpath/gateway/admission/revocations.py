"""The active revocations of one gateway. Pure: no I/O, and the caller gives the time.

Guarantees: a token that an active revocation names is refused, whatever came before or after it, in whatever order.
Of one user, and of all users together, the latest ``before`` and ``until`` count: so the memory is bounded by the
tokens and users that are named, not by how often. A token without ``iat`` counts as issued before everything.
"""

from typing import TYPE_CHECKING

from towpath.protocol.revocations import Kind, Revocation

if TYPE_CHECKING:
    from towpath.gateway.admission.credentials import Identity


class Revocations:
    """See the head of this module. :meth:`refuses` is asked at each connect and refresh."""

    def __init__(self) -> None:
        self._tokens: dict[str, float] = {}  # Token id → until.
        self._users: dict[str, tuple[float, float]] = {}  # User id → before, until.
        self._all_users = (0.0, 0.0)

    def __len__(self) -> int:
        """Tokens and users that are named, and one more for all users; expired ones until :meth:`expire`."""
        return len(self._tokens) + len(self._users) + bool(self._all_users[1])

    def add(self, kind: Kind, item: Revocation, now: float) -> None:
        """Add a revocation; one that has ended is ignored."""
        if item.until <= now:
            return
        if kind is Kind.TOKEN:
            self._tokens[item.token_id] = max(item.until, self._tokens.get(item.token_id, 0.0))
        elif kind is Kind.USER:
            self._users[item.user_id] = _later(self._users.get(item.user_id, (0.0, 0.0)), item, now)
        else:
            self._all_users = _later(self._all_users, item, now)

    def refuses(self, identity: "Identity", now: float) -> bool:
        """Whether the token of ``identity`` is revoked."""
        issued_at = identity.issued_at
        before, until = self._all_users
        if issued_at <= before and now < until:
            return True
        if (of_user := self._users.get(identity.user_id)) is not None:
            before, until = of_user
            if issued_at <= before and now < until:
                return True
        return identity.token_id is not None and now < self._tokens.get(identity.token_id, 0.0)

    def expire(self, now: float) -> None:
        """Forget what has ended."""
        self._tokens = {token_id: until for token_id, until in self._tokens.items() if until > now}
        self._users = {user_id: one for user_id, one in self._users.items() if one[1] > now}
        if self._all_users[1] <= now:
            self._all_users = (0.0, 0.0)


def _later(known: tuple[float, float], item: Revocation, now: float) -> tuple[float, float]:
    before, until = known
    if until <= now:  # It has ended, so its `before` counts no more.
        return item.before, item.until
    return max(before, item.before), max(until, item.until)
