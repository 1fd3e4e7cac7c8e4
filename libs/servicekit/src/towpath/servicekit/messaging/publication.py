"""Publications: one JSON text and where it goes. The inbox and the outbox store them, the publisher sends them."""

from typing import Final

import msgspec

from towpath.protocol.messages import with_trace


class Publication(msgspec.Struct, frozen=True, array_like=True):
    """One JSON text to publish to an exchange.

    Attributes:
        item: The text; :data:`STORED_IN_STREAM` if only the reference is stored.
        stream, seq: Reference to the stream entry that stores the push.
    """

    exchange: str
    routing_key: str
    item: msgspec.Raw
    stream: str = ""
    seq: int = 0

    def as_reference(self) -> "Publication":
        """The same without the text, if a stream stores the text."""
        if not self.stream:
            return self
        return Publication(self.exchange, self.routing_key, STORED_IN_STREAM, self.stream, self.seq)

    def with_trace(self, traceparent: str) -> "Publication":
        """The same with ``traceparent`` in its envelope."""
        item = msgspec.Raw(with_trace(bytes(self.item), traceparent))
        return Publication(self.exchange, self.routing_key, item, self.stream, self.seq)


#: JSON, because it is part of the JSON of a stored outcome.
STORED_IN_STREAM: Final = msgspec.Raw(b"0")
