"""Requests without a broker: what a service's reader makes of one command."""

from contextlib import nullcontext
from typing import Any, Final, cast

from msgspec.structs import replace
from pydantic import BaseModel

from towpath.protocol.envelope import make
from towpath.protocol.errors import TowpathError
from towpath.protocol.messages import Session, encode, wrap_command
from towpath.servicekit.broker.interface import Delivery
from towpath.servicekit.handling.decoding import read_item
from towpath.servicekit.handling.outcome import Outcome
from towpath.servicekit.handling.requests import Handler, Handlers, HandlerTables, Request
from towpath.servicekit.runtime.settings import TelemetrySettings
from towpath.servicekit.runtime.telemetry import Telemetry

_TELEMETRY: Final = Telemetry("testkit", TelemetrySettings())


class Anything(BaseModel):
    """A payload that fits any data."""


def nothing(*_: Any) -> Outcome:
    return Outcome()


#: A service of four actions: a change, a read, and two heavy reads.
SHELF: Final = {
    "shelf.put": Handler(Anything, nothing),
    "shelf.look": Handler(Anything, nothing, changes=False),
    "shelf.list": Handler(Anything, nothing, changes=False, cost=20),
    "shelf.history": Handler(Anything, nothing, changes=False, cost=20),
}


class Arrival:
    """A delivery of commands that counts its acks."""

    routing_key = exchange = "arrivals"
    redelivered = False
    app_id: str | None = None
    headers: dict[str, Any] = {}  # noqa: RUF012  # never written to

    def __init__(self, queue: str = "service.commands.0") -> None:
        self.queue = queue
        self.acks = 0

    def ack(self) -> None:
        self.acks += 1


def a_request(
    handlers: Handlers,
    action: str,
    user: str = "ana",
    *,
    key: str | None = None,
    msg_id: str | None = None,
    arrival: Arrival | None = None,
    refusal: TowpathError | None = None,
) -> Request:
    """A command that has just arrived.

    Args:
        key: The ordering key.
        arrival: Its delivery; one of its own unless given.
        refusal: It is refused with this error.
    """
    session = Session(user_id=user, connection_id=f"c-{user}", gateway_id="g")
    item = wrap_command(encode(session), make(action, {}, key=key, msg_id=msg_id).to_json())
    delivery = cast("Delivery", arrival or Arrival())
    request = read_item(delivery, item, HandlerTables("service", handlers, {}), _TELEMETRY, nullcontext())
    assert isinstance(request, Request)
    return request if refusal is None else replace(request, refusal=refusal)
