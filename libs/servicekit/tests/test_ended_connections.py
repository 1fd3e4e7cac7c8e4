"""Ended connections, as gateways report them."""

import asyncio
import contextlib
from typing import Final

from towpath.protocol.envelope import make
from towpath.protocol.messages import Session
from towpath.protocol.routes import EVENTS, SESSION_ENDED
from towpath.servicekit.broker.interface import Broker, Exchange, Message, Topology
from towpath.servicekit.messaging.ended_connections import EndedConnections
from towpath.testkit.eventually import eventually

SECONDS: Final = 60.0


def a_session(connection_id: str) -> Session:
    return Session(user_id="ana", connection_id=connection_id, gateway_id="g")


async def test_a_connection_that_a_gateway_reports_as_ended_is_not_connected(broker: Broker) -> None:
    departures = EndedConnections()
    await broker.declare(Topology(exchanges=[Exchange(EVENTS)]))
    listening = asyncio.create_task(departures.listen(broker, "test"))

    async def ended(body: bytes) -> bool:
        await broker.publish(EVENTS, SESSION_ENDED, Message(body=body))
        return not departures.is_connected(a_session("c-1"))

    for odd in (b"\xff", b"[1]", b"{}", b'{"data":{"connection_id":[]}}'):
        await broker.publish(EVENTS, SESSION_ENDED, Message(body=odd))
    event = make(SESSION_ENDED, {"user_id": "ana", "connection_id": "c-1", "gateway_id": "g"})
    await eventually(lambda: ended(event.to_json()))
    assert departures.is_connected(a_session("c-2"))
    listening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await listening


def test_ended_connections_are_bounded_in_number_and_age() -> None:
    now = 0.0
    departures = EndedConnections(most=2, clock=lambda: now)
    for connection_id in ("c-1", "c-2", "c-3"):
        departures.ended(connection_id)
    assert [departures.is_connected(a_session(f"c-{n}")) for n in (1, 2, 3)] == [True, False, False]
    now = SECONDS + 1
    assert departures.is_connected(a_session("c-3"))
