"""Drain: who is sent away does not come back all at once."""

from collections import Counter
from typing import Final

import msgspec
import pytest

from towpath.gateway.admission import Identity
from towpath.gateway.drain import drain
from towpath.gateway.groups import Members
from towpath.gateway.limits import Limits
from towpath.gateway.sessions import Session
from towpath.gateway.settings import GatewaySettings
from towpath.servicekit.telemetry import Telemetry
from towpath.testkit.tokens import SECRET

CROWD: Final = 500
LATER: Final = 4e9


class Line:
    """A WebSocket of somebody who goes when told to."""

    last_seen = 0.0
    address = "127.0.0.1"
    closing = False
    session: Session

    def __init__(self, members: Members) -> None:
        self.advice: list[float] = []
        self._members = members

    def send_text(self, text: bytes) -> None:
        self.advice.append(msgspec.json.decode(text)["data"]["retry_after_ms"] / 1000)

    def send_frame(self, frame: bytes) -> None:
        raise AssertionError("nothing is pushed here")

    def ping_now(self) -> None:
        raise AssertionError("nobody is pinged here")

    def close_with(self, code: int, reason: str) -> None:
        assert code == 1012
        self.closing = True
        self.session.forget_timers()
        self._members.remove(self.session)


async def advice_to(count: int, settings: GatewaySettings) -> list[float]:
    """The seconds after which each of ``count`` people is told to come back."""
    members = Members()
    limits = Limits(settings, Telemetry("test", settings))
    lines = [Line(members) for _ in range(count)]
    for number, line in enumerate(lines):
        line.session = Session(line, Identity(f"user-{number}", expires_at=LATER), settings, limits)
        members.add(line.session)
    await drain(members, settings)
    assert len(members) == 0
    return [seconds for line in lines for seconds in line.advice]


async def test_those_who_are_closed_together_come_back_spread_over_time() -> None:
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
