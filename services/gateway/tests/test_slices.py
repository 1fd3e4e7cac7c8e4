"""Long work is done in slices: the event loop serves others in between, heartbeats and health checks above all."""

import asyncio
from collections.abc import Awaitable
from time import perf_counter
from typing import Any, Final

from towpath.gateway.admission import Identity
from towpath.gateway.costs import Costs
from towpath.gateway.groups import Members
from towpath.gateway.limits import Limits
from towpath.gateway.outbound import Outbound
from towpath.gateway.sessions import Session
from towpath.gateway.settings import GatewaySettings
from towpath.protocol.envelope import make
from towpath.protocol.routes import EVERYONE, PUSH, connection_key, group_key
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.servicekit.runtime.time_slices import SLICE
from towpath.testkit.tokens import SECRET

WRITE_SECONDS: Final = 0.0001


class Line:
    """A WebSocket on which each write takes a while."""

    last_seen = 0.0
    address = "127.0.0.1"
    closing = False

    def __init__(self) -> None:
        self.frames = 0

    def send_text(self, text: bytes) -> None:
        self.send_frames(text)

    def send_frames(self, frames: bytes) -> None:
        until = perf_counter() + WRITE_SECONDS
        while perf_counter() < until:
            pass
        self.frames += 1

    def write_frames(self, frames: bytes) -> None:
        self.send_frames(frames)

    def rest(self, seconds: float) -> bool:
        raise NotImplementedError

    def go_on(self) -> None:
        raise NotImplementedError

    def ping_now(self) -> None:
        raise AssertionError("nobody is pinged here")

    def close_with(self, code: int, reason: str) -> None:
        raise AssertionError("nobody is closed here")


class Came:
    """A delivery."""

    exchange = PUSH
    queue = "inbox"
    redelivered = False
    app_id = user_id = None
    headers: dict[str, Any] = {}  # noqa: RUF012  # nobody writes to it

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


class NoProbe:
    """Nobody probes here."""

    def arrived(self) -> None: ...
    def heard(self, whom: str | None) -> None: ...


async def gateway_with(people: int) -> tuple[Outbound, list[Line], list[Session]]:
    settings = GatewaySettings(auth_secret=SECRET)
    telemetry = Telemetry("test", settings)
    members, limits = Members(), Limits(settings, telemetry)
    lines = [Line() for _ in range(people)]
    sessions = [
        Session(line, Identity(f"user-{n}", expires_at=4e9), settings, limits) for n, line in enumerate(lines)
    ]
    for session in sessions:
        members.add(session)
        members.subscribe(session, [group_key("room")], most=10)
    outbound = Outbound(members, NoProbe(), Costs(telemetry), settings, telemetry)  # type: ignore[arg-type]
    return outbound, lines, sessions


async def turns_during(work: Awaitable[object]) -> int:
    """How often the loop served others while ``work`` was done."""
    done, turns = asyncio.ensure_future(work), 0
    while not done.done():
        await asyncio.sleep(0)
        turns += 1
    await done
    return turns


async def test_a_push_to_a_large_group_lets_others_be_served() -> None:
    outbound, lines, sessions = await gateway_with(2_000)
    for key in (group_key("room"), EVERYONE):
        push = Came(key, make("test.push").to_json())
        turns = await turns_during(outbound.dispatch([push]))
        assert push.acked
        assert turns >= 0.5 * 2_000 * WRITE_SECONDS / SLICE
    assert {line.frames for line in lines} == {2}
    for session in sessions:
        session.ended()


async def test_many_pushes_and_items_that_came_together_let_others_be_served() -> None:
    outbound, lines, sessions = await gateway_with(1)
    [session] = sessions
    answer = make("test.push").to_json().decode()
    item = f'{{"connection_id":"{session.connection_id}","envelope":{answer}}}'
    items = Came(connection_key("gw"), f"[{','.join([item] * 1000)}]".encode())
    pushes = [Came(group_key("room"), answer.encode()) for _ in range(1000)]
    turns = await turns_during(outbound.dispatch([items, *pushes]))
    assert turns >= 0.5 * 2_000 * WRITE_SECONDS / SLICE
    assert lines[0].frames == 2_000
    session.ended()
