"""Long work is done in slices: the event loop serves other tasks in between, such as heartbeats and health checks."""

import asyncio
from collections.abc import Awaitable
from time import perf_counter
from typing import Any, Final

import msgspec

from towpath.gateway.admission.credentials import Identity
from towpath.gateway.forwarding.costs import Costs
from towpath.gateway.forwarding.outbound import Outbound
from towpath.gateway.forwarding.request_spans import RequestSpans
from towpath.gateway.sessions.limits import Limits
from towpath.gateway.sessions.members import Members
from towpath.gateway.sessions.session import Session
from towpath.gateway.settings import GatewaySettings
from towpath.protocol.envelope import make
from towpath.protocol.routes import EVERYONE, PUSH, connection_key, control_key, group_key
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.servicekit.runtime.time_slices import SLICE
from towpath.testkit.gateway_stubs import ArrivalsStub, SocketStub
from towpath.testkit.tokens import SECRET

WRITE_SECONDS: Final = 0.0001


def slow_write() -> None:
    until = perf_counter() + WRITE_SECONDS
    while perf_counter() < until:
        pass


class DeliveryStub:
    """A delivery."""

    exchange = PUSH
    queue = "inbox"
    redelivered = False
    app_id = user_id = None
    headers: dict[str, Any] = {}  # noqa: RUF012  # read only

    def __init__(self, routing_key: str, body: bytes) -> None:
        self.routing_key = routing_key
        self.body = body
        self.acked = False

    def ack(self) -> None:
        self.acked = True

    def reject(self) -> None:
        raise AssertionError

    def requeue(self) -> None:
        raise AssertionError


async def gateway_with(people: int) -> tuple[Outbound, list[SocketStub], list[Session]]:
    settings = GatewaySettings(auth_secret=SECRET)
    telemetry = Telemetry("test", settings)
    members, limits = Members(groups_max=10), Limits(settings, telemetry)
    sockets = [SocketStub(written=slow_write) for _ in range(people)]
    sessions = [
        Session(socket, Identity(f"user-{n}", expires_at=4e9), settings, limits)
        for n, socket in enumerate(sockets)
    ]
    for session in sessions:
        members.add(session)
        members.subscribe(session, [group_key("room")])
    outbound = Outbound(
        members, ArrivalsStub(), Costs(telemetry), telemetry, RequestSpans(settings, telemetry)
    )
    return outbound, sockets, sessions


async def iterations_during(work: Awaitable[object]) -> int:
    """How often the event loop ran other tasks during ``work``."""
    done, iterations = asyncio.ensure_future(work), 0
    while not done.done():
        await asyncio.sleep(0)
        iterations += 1
    await done
    return iterations


async def test_other_tasks_run_during_a_push_to_a_large_group() -> None:
    outbound, sockets, sessions = await gateway_with(2_000)
    for key in (group_key("room"), EVERYONE):
        push = DeliveryStub(key, make("test.push").to_json())
        iterations = await iterations_during(outbound.dispatch([push]))
        assert push.acked
        assert iterations >= 0.5 * 2_000 * WRITE_SECONDS / SLICE
    assert {len(socket.pushed) for socket in sockets} == {2}
    for session in sessions:
        session.ended()


async def test_other_tasks_run_while_many_pushes_and_items_of_one_read_are_delivered() -> None:
    outbound, sockets, sessions = await gateway_with(1)
    [session] = sessions
    answer = make("test.push").to_json().decode()
    item = f'{{"connection_id":"{session.connection_id}","envelope":{answer}}}'
    items = DeliveryStub(connection_key("gw"), f"[{','.join([item] * 1000)}]".encode())
    pushes = [DeliveryStub(group_key("room"), answer.encode()) for _ in range(1000)]
    iterations = await iterations_during(outbound.dispatch([items, *pushes]))
    assert iterations >= 0.5 * 2_000 * WRITE_SECONDS / SLICE
    assert (len(sockets[0].texts), len(sockets[0].pushed)) == (1_000, 1_000)
    session.ended()


async def test_other_tasks_run_while_an_item_subscribes_to_many_groups() -> None:
    outbound, sockets, sessions = await gateway_with(1)
    [session] = sessions
    groups = [f"g.{n}" for n in range(100_000)]
    item = {
        "subscribe": groups,
        "unsubscribe": groups[:50_000],
        "envelope": msgspec.Raw(make("test.push").to_json()),
    }
    for key, named in (
        (connection_key("gw"), {"connection_id": session.connection_id}),
        (control_key("user-0"), {}),
    ):
        delivery = DeliveryStub(key, msgspec.json.encode(named | item))
        iterations = await iterations_during(outbound.dispatch([delivery]))
        assert delivery.acked
        assert iterations >= 10
    assert len(sockets[0].texts) == 2
    session.ended()


async def test_an_item_of_many_groups_is_dropped_whole_for_one_without_a_name() -> None:
    outbound, sockets, sessions = await gateway_with(1)
    [session] = sessions
    item = {"connection_id": session.connection_id, "envelope": msgspec.Raw(make("test.push").to_json())}
    bad = msgspec.json.encode(item | {"subscribe": [*(f"g{n}" for n in range(5_000)), ""]})
    good = msgspec.json.encode(item | {"subscribe": ["good"]})
    await outbound.dispatch([DeliveryStub(connection_key("gw"), b"[" + bad + b"," + good + b"]")])
    assert len(sockets[0].texts) == 1
    members = session.groups[""].groups
    assert set(members) == {group_key("room"), group_key("good")}
    session.ended()
