"""Fair units: the next unit of work is shared by the senders, and by the ordering keys, that wait.

Guarantees: a flood of one sender delays the others by one small unit of work, not by the flood; nor do many senders
with one ordering key (a crowd in one room) delay those with other keys. While a flood waits, every second unit is
without it, so that those with few requests need not wait for its part of their own unit as well. Requests with one
ordering key keep their order. A read never sees a change that its sender sent later.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from towpath.servicekit.handling.requests import Request

#: Total cost of a unit of work that senders share fairly while others wait.
FAIR_SHARE: Final = 100.0
#: Maximum number of senders that it is divided by: with more senders, units grow.
_SHARERS: Final = 20
#: Usual maximum cost of a request. Only used to skip the sums for small batches.
_USUAL_COST: Final = 4.0


@dataclass(frozen=True, slots=True)
class _Crowding:
    """Senders and ordering keys that have more waiting than a fair unit holds.

    Attributes:
        part: The cost that each user may have in the next unit. A backend, which publishes for many users, may have
            all of a unit.
        senders: Those with more than that.
        keys: Ordering keys with more than a whole unit.
    """

    part: float
    senders: frozenset[str]
    keys: frozenset[str]


class FairUnits:
    """Takes units of work from what waits.

    Args:
        share: Total cost of a unit that senders share while others wait.
    """

    def __init__(self, share: float = FAIR_SHARE) -> None:
        self._share = share
        self._was_small = False

    def next(self, waiting: Sequence[Request], limit: int) -> tuple[list[Request], list[Request]]:
        """Take the next unit of work of at most ``limit`` requests; returns it, and the remaining ones in order.

        In a unit of work all changes run before all reads. So a change starts a new unit if this one has an earlier
        read with its sequence (sender and ordering key): else that read's answer would include a change sent later.

        If the waiting cost exceeds the share, and one sender has more than its part of it, or one of several ordering
        keys more than all of it, the further requests of that sender or key are left to the next units, so that
        others wait for a small unit only. The order of arrival is kept per ordering key, across all senders.
        """
        share = self._share
        # Fairness costs sums over all that wait. A batch this small is over soon.
        if len(waiting) <= share / _USUAL_COST or (crowding := _crowding(waiting, share)) is None:
            self._was_small = False
            return _whole_unit(waiting, limit)
        if not self._was_small:
            unit, left = _fair_unit(waiting, limit, share, crowding, is_small=True)
            if unit:
                self._was_small = True
                return unit, left
        self._was_small = False
        return _fair_unit(waiting, limit, share, crowding, is_small=False)


def _whole_unit(waiting: Sequence[Request], limit: int) -> tuple[list[Request], list[Request]]:
    asked: set[tuple[str, str]] = set()
    for position, request in enumerate(waiting):
        if position == limit:
            return list(waiting[:position]), list(waiting[position:])
        # A refusal neither reads nor changes, so it limits nothing.
        if request.refusal is not None:
            continue
        if not request.handler.changes:
            asked.add(request.sequence_key)
        # The unit ends here, for all senders: what is behind this change keeps its position behind it.
        elif asked and request.sequence_key in asked:
            return list(waiting[:position]), list(waiting[position:])
    return list(waiting), []


def _crowding(waiting: Sequence[Request], share: float) -> _Crowding | None:
    """Senders and keys that have more waiting than a fair unit holds; ``None`` if no limit is needed."""
    users: dict[str, float] = {}
    backends: dict[str, float] = {}
    keys: dict[str, float] = {}
    for request in waiting:
        weights = backends if request.session is None else users
        sender, key = request.sequence_key
        weights[sender] = weights.get(sender, 0.0) + request.cost
        keys[key] = keys.get(key, 0.0) + request.cost
    if len(users) + len(backends) < 2 or sum(keys.values()) <= share:
        return None
    part = share / min(max(len(users), 1), _SHARERS)
    over = {user for user, weight in users.items() if weight > part}
    over |= {backend for backend, weight in backends.items() if weight > share}
    over_keys = {key for key, weight in keys.items() if weight > share} if len(keys) > 1 else set()
    return _Crowding(part, frozenset(over), frozenset(over_keys)) if over or over_keys else None


def _fair_unit(
    waiting: Sequence[Request], limit: int, share: float, crowding: _Crowding, *, is_small: bool
) -> tuple[list[Request], list[Request]]:
    """The next unit, in which no sender exceeds its part, and the remaining items, in order.

    Args:
        is_small: The senders and ordering keys of ``crowding`` have nothing in this unit.
    """
    unit: list[Request] = []
    left: list[Request] = []
    weights: dict[str, float] = {}
    key_weights: dict[str, float] = {}
    asked: set[tuple[str, str]] = set()
    held_back = set(crowding.keys if is_small else ())  # ordering keys
    for request in waiting:
        sender, key = request.sequence_key
        weight, key_weight = weights.get(sender, 0.0), key_weights.get(key, 0.0)
        is_change = request.refusal is None and request.handler.changes
        if (
            len(unit) >= limit
            or (is_small and sender in crowding.senders)
            # The same key was left before: later requests with it must not overtake, of any sender.
            or key in held_back
            # The first of a sender always fits (`weight` is 0), so an expensive request never waits for ever.
            or (weight and weight + request.cost > (share if request.session is None else crowding.part))
            or (key_weight and key_weight + request.cost > share)
            or (is_change and request.sequence_key in asked)
        ):
            left.append(request)
            # By key alone and not by sender: users of one room keep the order in which they wrote.
            held_back.add(key)
            continue
        unit.append(request)
        weights[sender] = weight + request.cost
        key_weights[key] = key_weight + request.cost
        if request.refusal is None and not is_change:
            asked.add(request.sequence_key)
    return unit, left
