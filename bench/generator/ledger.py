"""The received and the expected numbers of one receiver and one sequence."""


class Ledger:
    """Numbers that ought to come one after the other, each once.

    Attributes:
        duplicates, disorder: How many were repeated, and how many arrived after a later one.
    """

    __slots__ = ("_missing", "_next", "disorder", "duplicates")

    def __init__(self, first: int) -> None:
        self._next = first
        self._missing: set[int] = set()
        self.duplicates = self.disorder = 0

    def hear(self, number: int) -> bool:
        """Take note of a number; false for one that was there already."""
        due = self._next
        if number == due:
            self._next = number + 1
            return True
        if number > due:
            self._missing.update(range(due, number))
            self._next = number + 1
            return True
        if number in self._missing:
            self._missing.discard(number)
            self.disorder += 1
            return True
        self.duplicates += 1
        return False

    def lost(self, end: int) -> int:
        """How many of those below ``end`` never came."""
        return len(self._missing) + max(end - self._next, 0)
