"""Drain: the clients of a stopping replica do not reconnect all at once."""

import asyncio
import contextlib
import selectors
from collections import Counter
from typing import Final

import msgspec
import pytest

from towpath.gateway.admission.credentials import Identity
from towpath.gateway.sessions.drain import drain, pace, time_for_steps
from towpath.gateway.sessions.limits import Limits
from towpath.gateway.sessions.members import Members
from towpath.gateway.sessions.session import Session
from towpath.gateway.settings import GatewaySettings
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.testkit.gateway import RunGateway
from towpath.testkit.gateway_stubs import SocketStub
from towpath.testkit.tokens import SECRET

CROWD: Final = 500
LATER: Final = 4e9


async def advice_to(count: int, settings: GatewaySettings) -> list[float]:
    """The seconds after which each of ``count`` clients is advised to reconnect."""
    members = Members(groups_max=10)
    limits = Limits(settings, Telemetry("test", settings))
    sockets = []
    for number in range(count):

        def closed(code: int, number: int = number) -> None:
            assert code == 1012
            sessions[number].forget_timers()
            members.remove(sessions[number])

        sockets.append(SocketStub(closed=closed))
    sessions = [
        Session(socket, Identity(f"user-{number}", expires_at=LATER), settings, limits)
        for number, socket in enumerate(sockets)
    ]
    for session in sessions:
        members.add(session)
    await drain(members, settings)
    assert len(members) == 0
    texts = [text for socket in sockets for text in socket.texts]
    return [msgspec.json.decode(text)["data"]["retry_after_ms"] / 1000 for text in texts]


async def test_clients_closed_together_are_advised_to_reconnect_at_different_times() -> None:
    settings = GatewaySettings(auth_secret=SECRET, drain_step=CROWD, retry_after=2.0, retry_spread=4.0)
    advice = await advice_to(CROWD, settings)
    assert len(advice) == CROWD
    assert min(advice) >= 2.0
    assert max(advice) <= 6.0
    # A quarter each, with room for chance: 200 of 500 is seven standard deviations away.
    assert max(Counter(int(seconds) for seconds in advice).values()) < 200


async def test_without_a_spread_all_get_the_same_advice() -> None:
    settings = GatewaySettings(auth_secret=SECRET, retry_after=1.5, retry_spread=0)
    assert await advice_to(5, settings) == pytest.approx([1.5] * 5)


@pytest.mark.parametrize("connections", [0, 1, 199, 200, 201, 10_000, 50_000, 500_000])
@pytest.mark.parametrize("drain_timeout", [1.0, 10.0, 30.0, 300.0])
def test_all_steps_are_done_within_the_time_limit(connections: int, drain_timeout: float) -> None:
    settings = GatewaySettings(auth_secret=SECRET, drain_timeout=drain_timeout)
    plan = pace(connections, settings)
    assert plan.steps * plan.step >= connections
    assert plan.longest <= time_for_steps(settings) + 1e-6 < drain_timeout


def test_50_000_connections_leave_time_to_close_and_flush() -> None:
    settings = GatewaySettings(auth_secret=SECRET)
    plan = pace(50_000, settings)
    assert plan.step == 200
    assert 15 < plan.longest <= 30 - settings.close_timeout - 5


def test_few_connections_are_closed_at_a_calm_pace() -> None:
    assert pace(1_000, GatewaySettings(auth_secret=SECRET)).pause == pytest.approx(0.2)


def test_50_000_connections_are_advised_within_the_time_limit_by_the_clock() -> None:
    loop = SkippingLoop()
    try:
        settings = GatewaySettings(auth_secret=SECRET)
        advice = loop.run_until_complete(advice_to(50_000, settings))
    finally:
        loop.close()
    assert len(advice) == 50_000
    assert 15 < loop.skipped <= time_for_steps(settings)


class SkippingLoop(asyncio.SelectorEventLoop):
    """An event loop that does not wait: what it would wait for is added to its clock.

    Attributes:
        skipped: Seconds that were not waited for.
    """

    def __init__(self) -> None:
        self.skipped = 0.0
        super().__init__(_SkippingSelector(self))

    def time(self) -> float:
        return self.skipped


class _SkippingSelector(selectors.DefaultSelector):
    def __init__(self, loop: SkippingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._loop.skipped += timeout or 0.0
        return super().select(0)


async def test_a_crowd_is_advised_and_closed_with_1012(run_gateway: RunGateway) -> None:
    async with (
        run_gateway(max_connections_per_user=CROWD, connects_per_user_burst=CROWD) as gateway,
        contextlib.AsyncExitStack() as stack,
    ):
        people = [await stack.enter_async_context(gateway.connect(f"user-{n}")) for n in range(CROWD)]
        gateway.drain()
        for person in people:
            closing = (await person.next("session.closing"))["data"]
            assert closing["code"] == 1012
            assert closing["retry_after_ms"] >= 2000
            assert await person.closed() == 1012
