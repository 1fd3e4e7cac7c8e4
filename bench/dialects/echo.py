"""What comes back is what was sent: the language of the limit."""

from typing import Final

from bench.dialects import number_after
from bench.dialects.plain import Plain


class Echo(Plain):
    """See :class:`bench.dialects.Dialect`."""

    _sent = staticmethod(number_after(b'"msg_id":"'))

    def answered(self, frame: bytes) -> int | None:
        # What is said in a room comes back as it was, to all: nobody gets an answer to it.
        return None if b'"room.say"' in frame else self._sent(frame)

    def refused(self, frame: bytes) -> int | None:
        return None


DIALECT: Final = Echo()
