"""Payload models of the session events that gateways publish."""

from typing import Annotated

from pydantic import StringConstraints

from towpath.protocol.fields import Payload, Text

_Word = Annotated[Text, StringConstraints(min_length=1, max_length=256)]


class SessionEvent(Payload):
    """``data`` of ``session.started`` and ``session.ended``.

    Attributes:
        code: The close code, once the connection has ended.
    """

    user_id: _Word
    connection_id: _Word
    gateway_id: _Word
    code: int | None = None
