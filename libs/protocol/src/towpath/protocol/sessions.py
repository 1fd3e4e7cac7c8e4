"""Payload models of the session events that gateways publish."""

from typing import Annotated

from pydantic import Field, StringConstraints

from towpath.protocol.fields import Payload, Text, UserId

_Word = Annotated[Text, StringConstraints(min_length=1, max_length=256)]
#: Distinguishes one run of a gateway from the next one under the same id; empty if the gateway does not send it.
_Incarnation = Annotated[Text, StringConstraints(max_length=64)]


class SessionEvent(Payload):
    """Common fields of ``session.started`` and ``session.ended``.

    Attributes:
        incarnation: The run of the gateway; the connections of an earlier run are gone.
        code: The close code, once the connection has ended.
    """

    user_id: UserId
    connection_id: _Word
    gateway_id: _Word
    incarnation: _Incarnation = ""
    code: int | None = None


class SessionStarted(SessionEvent):
    """``data`` of ``session.started``.

    Attributes:
        inbox: Which of the gateway's inboxes, one after the other, gets what services send to the connection.
    """

    inbox: Annotated[int, Field(ge=0, lt=2**63)] = 0


class SessionEnded(SessionEvent):
    """``data`` of ``session.ended``."""


class GatewayAlive(Payload):
    """``data`` of ``session.alive``: the gateway runs, and its started and not ended connections are open."""

    gateway_id: _Word
    incarnation: _Incarnation = ""
