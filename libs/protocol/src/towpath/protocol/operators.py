"""Questions of operators to gateways, and their reports, on :data:`~towpath.protocol.routes.PUSH`.

An operator's tool publishes a :class:`Question` under :data:`ASK_ALL` or :func:`ask_key`. Each gateway that gets it
publishes one :class:`GatewayReport` under :func:`report_key`, which only the queue of the tool is bound to. The keys
of questions match the bindings that gateways have for their probes, so gateways of earlier versions receive questions
and ignore them. No push has such a key, and nothing is delivered to a client under them.
"""

import re
from typing import Annotated, Final, TypeVar

import msgspec

from towpath.protocol.errors import BadEnvelope
from towpath.protocol.routes import EVERYONE, PROBE, USER_ID_CHARACTERS, connection_key

_ASK: Final = "ask"
_DRAIN: Final = "drain"
#: The key of a question to all gateways.
ASK_ALL: Final = f"{EVERYONE}.{_ASK}"
#: The form of an asker's name. A report goes to a key that ends with it, so nothing else may be such a name.
ASKER: Final = re.compile(r"ops-[0-9a-f]{16}")
#: Connections that one report lists at most.
LISTED_MAX: Final = 200

Count = Annotated[int, msgspec.Meta(ge=0)]
_Name = Annotated[str, msgspec.Meta(max_length=256)]
M = TypeVar("M", bound=msgspec.Struct)


class Question(msgspec.Struct, frozen=True, omit_defaults=True):
    """A question to a gateway.

    Attributes:
        asker: Names the queue of the one who asks, see :data:`ASKER`.
        user_id: The report lists the connections of this user.
        group: The report counts the connections in this group.
        most: Connections that each list of the report may have.
    """

    asker: Annotated[str, msgspec.Meta(pattern=rf"^{ASKER.pattern}\Z")]
    user_id: Annotated[str, msgspec.Meta(max_length=USER_ID_CHARACTERS)] = ""
    group: _Name = ""
    most: Annotated[int, msgspec.Meta(ge=0, le=LISTED_MAX)] = 20


class Drain(msgspec.Struct, frozen=True):
    """The request to stop, as after SIGTERM.

    Attributes:
        incarnation: The run of the gateway that is meant; another run ignores it.
    """

    incarnation: _Name


class ConnectionReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """One connection.

    Attributes:
        backlog_bytes: Bytes that wait because the client reads slowly.
        in_group: Whether it is in the group of the question.
        closing: Its close has begun.
    """

    connection_id: _Name
    user_id: str
    backlog_bytes: Count = 0
    in_group: bool = False
    closing: bool = False


class GatewayReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of a gateway.

    Attributes:
        incarnation: Its run.
        version: Of its package.
        at: Its clock, Unix milliseconds.
        up_seconds: Seconds since it started.
        failing: The checks of its readiness that fail; empty while it is ready.
        development: Whether it accepts a weak secret.
        connections, users, groups: Open connections, their users, and the groups that they are in.
        connections_max: Connections that its descriptors allow.
        connections_wanted: Connections that its setting allows.
        descriptors: Its limit of open files.
        waiting: Connections that wait until pushes to their user reach it.
        is_selective: Whether only pushes to its own users reach it.
        backlog_bytes, backlogged: Bytes that wait for clients, and the number of these clients.
        slowest: Those with the most bytes.
        of_user: Connections of the user that was asked about; ``of_user_count`` counts all of them.
        in_group: Connections in the group that was asked about.
    """

    gateway_id: _Name
    incarnation: _Name
    version: _Name
    at: int
    up_seconds: float
    failing: list[str] = []
    development: bool = False
    connections: Count = 0
    users: Count = 0
    groups: Count = 0
    connections_max: Count = 0
    connections_wanted: Count = 0
    descriptors: Count = 0
    waiting: Count = 0
    is_selective: bool = False
    backlog_bytes: Count = 0
    backlogged: Count = 0
    slowest: list[ConnectionReport] = []
    of_user: list[ConnectionReport] = []
    of_user_count: Count = 0
    in_group: Count = 0


def ask_key(gateway_id: str) -> str:
    """The key of a question to one gateway."""
    return f"{connection_key(gateway_id)}.{_ASK}"


def drain_key(gateway_id: str) -> str:
    """The key of a request to stop."""
    return f"{connection_key(gateway_id)}.{_DRAIN}"


def report_key(asker: str) -> str:
    """The key of reports to an asker."""
    return f"{PROBE}.{asker}"


def read_question(body: bytes) -> Question:
    """Read a question.

    Raises:
        BadEnvelope: It is not one.
    """
    return _read(body, Question)


def read_drain(body: bytes) -> Drain:
    """Read a request to stop.

    Raises:
        BadEnvelope: It is not one.
    """
    return _read(body, Drain)


def read_report(body: bytes) -> GatewayReport:
    """Read a report; fields of a later version are ignored.

    Raises:
        BadEnvelope: It is not one.
    """
    return _read(body, GatewayReport)


def _read(body: bytes, model: type[M]) -> M:
    try:
        return msgspec.json.decode(body, type=model)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadEnvelope(f"This is not a {model.__name__}: {error}.") from None
