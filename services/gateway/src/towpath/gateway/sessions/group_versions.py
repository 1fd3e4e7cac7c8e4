"""Group order: the groups of one connection from one service, independent of the order in which changes arrive.

A service may number its membership changes (``as_of`` of a directed item) in commit order. The changes arrive under
two routing keys, from several replicas, and late after a fault, so they may arrive in another order.

Guarantees:

* Of two changes of one group the one with the higher number wins.
* A ``complete`` list replaces all earlier changes of the service by number, and no later ones.
* Until the first complete list, lost changes are unknown: an ``unsubscribe`` may have been lost with an older inbox.
  So a ``subscribe`` applies at once only if it answers a request that this connection sent since the current inbox
  exists (``is_current``); else it waits for the list.
* The number of remembered left groups is bounded; the oldest is dropped first.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

_NONE: Final[Mapping[str, int]] = MappingProxyType({})


class GroupVersions:
    """The groups of one connection from one service; groups are named by their routing keys.

    Attributes:
        groups: Group → number of the change that subscribed the connection.
    """

    __slots__ = ("_as_of", "_left", "_waiting", "groups")

    def __init__(self) -> None:
        self.groups: dict[str, int] = {}
        self._as_of: int | None = None
        self._left: Mapping[str, int] = _NONE
        self._waiting: Mapping[str, int] = _NONE

    def subscribe(
        self, groups: Iterable[str], as_of: int, *, is_current: bool, free: int
    ) -> tuple[list[str], int]:
        """Put the connection into ``groups``.

        Args:
            free: Number of further groups that the connection may enter; also bounds the waiting ones.

        Returns:
            The groups newly entered, and the number refused because of ``free``.
        """
        if self._as_of is None and not is_current:
            for group in groups:
                self._waiting = _with_entry(self._waiting, group, as_of, most=free)
            return [], 0
        entered: list[str] = []
        refused = 0
        for group in groups:
            if as_of < max(self._as_of or 0, self._left.get(group, 0), self.groups.get(group, 0)):
                continue
            if group not in self.groups:
                if len(entered) >= free:
                    refused += 1
                    continue
                entered.append(group)
            self.groups[group] = as_of
        return entered, refused

    def unsubscribe(self, groups: Iterable[str], as_of: int, *, most: int) -> list[str]:
        """Remove the connection from ``groups``; returns those that it has left.

        Args:
            most: Maximum number of left groups that are remembered.
        """
        out: list[str] = []
        for group in groups:
            if as_of < max(self._as_of or 0, self.groups.get(group, 0)):
                continue
            if self.groups.pop(group, None) is not None:
                out.append(group)
            # Also for a group that the connection was not in: the older `subscribe` may still arrive.
            self._left = _with_entry(self._left, group, as_of, most=most)
        return out

    def complete(self, as_of: int, *, free: int) -> tuple[list[str], list[str], int]:
        """Record that all groups as of a number have been named.

        Returns:
            The groups left, the groups newly entered, and the number refused because of ``free``.
        """
        # A newer list has overtaken this one.
        if self._as_of is not None and as_of < self._as_of:
            return [], [], 0
        # The groups that the list names have its number by now; the connection is not in the others.
        out = [group for group, number in self.groups.items() if number < as_of]
        for group in out:
            del self.groups[group]
        self._as_of = as_of
        self._left = _later(self._left, as_of)
        # Changes committed after the list was read.
        waiting, self._waiting = _later(self._waiting, as_of), _NONE
        entered: list[str] = []
        refused = 0
        for group, number in waiting.items():
            now, over = self.subscribe([group], number, is_current=True, free=free + len(out) - len(entered))
            entered += now
            refused += over
        return out, entered, refused


def _with_entry(numbers: Mapping[str, int], group: str, number: int, *, most: int) -> Mapping[str, int]:
    """``numbers`` with one more entry, as the newest, limited to ``most`` entries."""
    noted = numbers if isinstance(numbers, dict) else {}
    # Popped, so that it becomes the newest entry; never lowered by a late change.
    noted[group] = max(number, noted.pop(group, 0))
    while len(noted) > most:
        del noted[next(iter(noted))]
    return noted


def _later(numbers: Mapping[str, int], as_of: int) -> Mapping[str, int]:
    return {group: number for group, number in numbers.items() if number > as_of} or _NONE
