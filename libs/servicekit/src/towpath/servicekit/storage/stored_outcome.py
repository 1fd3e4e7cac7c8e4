"""Stored outcomes: the form of an outcome that the inbox keeps and a repetition publishes again."""

from collections.abc import Container

import msgspec

from towpath.protocol.messages import NO_JSON
from towpath.servicekit.messaging.publication import Publication
from towpath.servicekit.storage.leaves import Leave


class StoredOutcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """A finished outcome as bytes: the inbox stores it, and every repetition publishes it again.

    Its answer never changes; its pushes change only by fields withheld from their stream since. Its membership
    changes and replays are reduced by :meth:`within`.

    Attributes:
        answer: Raw JSON of the answering envelope; empty if there is none (yet).
        fingerprint: Of the request (action and data); empty in rows of early versions.
        complete: Whether ``subscribe`` names all groups of the connection.
        leaves: Users to be removed from groups before anything is pushed.
    """

    answer: msgspec.Raw = NO_JSON
    outgoing: list[Publication] = []
    subscribe: list[str] = []
    unsubscribe: list[str] = []
    replay: dict[str, int] = {}
    fingerprint: str = msgspec.field(default="", name="asked")  # The name in stored rows.
    complete: bool = False
    leaves: list[Leave] = []

    @property
    def changes_groups(self) -> bool:
        """Whether it subscribes, unsubscribes or sets groups."""
        return bool(self.subscribe or self.unsubscribe or self.complete or self.leaves)

    @property
    def names(self) -> set[str]:
        """The groups and streams that it names."""
        return {*self.subscribe, *self.unsubscribe, *self.replay}

    def as_reference(self) -> "StoredOutcome":
        """The form to store: a push that a stream stores becomes a reference, so that its text exists only there."""
        return msgspec.structs.replace(
            self, outgoing=[item.as_reference() if item.stream else item for item in self.outgoing]
        )

    def within(self, right: Container[str], may_receive: Container[tuple[str, str]] = ()) -> "StoredOutcome":
        """The same, reduced to the membership changes that are correct now.

        Args:
            right: The groups and streams that the user may receive: only these may be joined, and only others may be
            left.
            may_receive: The same for the users in ``leaves``, as pairs of a user and a group.
        """
        return msgspec.structs.replace(
            self,
            subscribe=[group for group in self.subscribe if group in right],
            unsubscribe=[group for group in self.unsubscribe if group not in right],
            replay={stream: seq for stream, seq in self.replay.items() if stream in right},
            leaves=[leave for leave in self.leaves if (leave.user_id, leave.group) not in may_receive],
        )
