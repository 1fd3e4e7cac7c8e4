"""Every reply equals the request: the language of the limit."""

from typing import Final

from bench.dialects import number_after
from bench.dialects.plain import Plain


class Echo(Plain):
    """See :class:`bench.dialects.Dialect`."""

    _sent = staticmethod(number_after(b'"msg_id":"'))

    def answered(self, frame: bytes) -> int | None:
        # A message to a room is echoed unchanged to all: it has no separate answer.
        return None if b'"room.say"' in frame else self._sent(frame)

    def refused(self, frame: bytes) -> int | None:
        return None


DIALECT: Final = Echo()
