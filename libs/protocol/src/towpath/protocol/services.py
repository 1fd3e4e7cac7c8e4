"""Payload model of what services announce about themselves."""

from typing import Annotated, Final

from pydantic import Field, StringConstraints

from towpath.protocol.fields import Payload, Text

#: The least and the most that an action may cost, in tokens of the gateways' rate limits.
MIN_COST: Final = 1.0
MAX_COST: Final = 100.0
#: The cost of ``session.refresh``: a signature is checked; no client needs this more often than once a minute.
REFRESH_COST: Final = 20.0

_Name = Annotated[Text, StringConstraints(min_length=1, max_length=64)]


class ServiceAlive(Payload):
    """``data`` of ``service.alive``: a replica of a service runs.

    Attributes:
        domain: The first word of the actions it owns.
        costs: The cost of an action, where it is more than 1. Gateways charge it to the sender.
    """

    service: _Name
    domain: _Name
    costs: Annotated[dict[str, float], Field(default_factory=dict, max_length=500)]


class ServiceReplica(Payload):
    """``data`` of ``service.replica``: what one replica of a service consumes.

    Attributes:
        replica: Its id, unique for each start of a program.
        queues: The queues that it consumes.
        leaves: It stops; others may take its queues.
    """

    service: _Name
    replica: _Name
    queues: Annotated[
        list[Annotated[Text, StringConstraints(min_length=1, max_length=255)]], Field(max_length=1000)
    ]
    leaves: bool = False
