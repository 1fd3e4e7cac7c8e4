"""A person's preferences and read position, and what identifies a notification. No I/O."""

import hashlib
from dataclasses import dataclass, field
from typing import Final, get_args

from towpath.protocol.errors import InvalidData, RateLimited
from towpath.protocol.notifications import Kind, Preferences

#: All kinds, in the order of the contract.
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
DAY_MS: Final = 86_400_000


class AddressNotYours(InvalidData):
    """Operators alone set addresses here."""


class TooManyAddresses(RateLimited):
    """The user has changed the address too often today."""


def id_of(user_id: str, topic: str) -> str:
    """The id of a user's notification about a topic: there is one of them."""
    about = f"{len(user_id)}:{user_id}:{topic}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(about, digest_size=16).hexdigest()


@dataclass(slots=True)
class Daily:
    """Counts something within a day (UTC).

    Attributes:
        day: Days since 1970.
    """

    day: int = 0
    count: int = 0

    def left(self, now_ms: int, limit: int) -> int:
        """How many are left of ``limit`` today."""
        return max(limit - self.count, 0) if self.day == now_ms // DAY_MS else limit

    def add(self, now_ms: int) -> None:
        """Count one more."""
        if self.day != now_ms // DAY_MS:
            self.day, self.count = now_ms // DAY_MS, 0
        self.count += 1


@dataclass(slots=True)
class Person:
    """The settings and the read position of one user.

    Attributes:
        language: ``None`` for the default of this installation.
        kinds: Kinds that are sent as mails; ``None`` for all.
        read_seq: All notifications up to here are read.
    """

    user_id: str
    email: str | None = None
    language: str | None = None
    kinds: list[Kind] | None = None
    read_seq: int = 0
    addresses: Daily = field(default_factory=Daily)
    mails: Daily = field(default_factory=Daily)
    is_stored: bool = False
    is_changed: bool = False

    def wants_mail(self, kind: str) -> bool:
        """Whether a notification of ``kind`` should be sent as a mail."""
        return self.email is not None and (self.kinds is None or kind in self.kinds)

    def prefer(self, preferences: Preferences, now_ms: int, addresses_per_day: int) -> None:
        """Change what ``preferences`` names.

        Raises:
            AddressNotYours, TooManyAddresses: Nothing is changed.
        """
        named = preferences.model_fields_set & Preferences.model_fields.keys()
        if "email" in named and preferences.email is not None and preferences.email != self.email:
            if not addresses_per_day:
                raise AddressNotYours("The address is set by the operators of this installation.")
            if not self.addresses.left(now_ms, addresses_per_day):
                raise TooManyAddresses(
                    f"The address was changed {addresses_per_day} times today, which is the limit: "
                    f"try again tomorrow."
                )
            self.addresses.add(now_ms)
        for name in named:
            setattr(self, name, getattr(preferences, name))
        self.is_changed = self.is_changed or bool(named)

    def read(self, up_to: int) -> bool:
        """Move the read position; it only grows. Returns whether it has."""
        if up_to <= self.read_seq:
            return False
        self.read_seq = up_to
        self.is_changed = True
        return True
