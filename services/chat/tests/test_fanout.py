"""A request costs its sender the deliveries that it causes: bounded, for any receivers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from towpath.chat.app import CHAT, STORAGE
from towpath.chat.fanout import COUNTED_SECONDS, FanOut
from towpath.chat.limits import Limits
from towpath.chat.repository import Rooms
from towpath.chat.tables import MESSAGES
from towpath.protocol.errors import RateLimited
from towpath.servicekit.runtime.buckets import Rate
from towpath.testkit.dispatching import (
    GATEWAY,
    Incoming,
    ServiceUnderTest,
    a_command,
    an_event,
    counted_statements,
)


class Seconds:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def running(database_url: str, clock: Seconds, **limits: Any) -> AsyncIterator[ServiceUnderTest]:
    chosen = Limits(**limits)
    unit = partial(Rooms, limits=chosen, fanout=FanOut(chosen.deliveries, clock))
    service = replace(CHAT, storage=replace(STORAGE, unit=unit))
    async with ServiceUnderTest.running(service, database_url) as chat:
        yield chat


def a_join(user: str, room: str = "hall") -> Incoming:
    return a_command("chat.join", room=room, by=user)


def a_send(msg_id: str, text: str = "hello", by: str = "eve", **more: Any) -> Incoming:
    return a_command("chat.send", room="hall", text=text, by=by, msg_id=msg_id, **more)


def starts(user: str, connection: str) -> Incoming:
    return an_event(
        "session.started",
        user_id=user,
        connection_id=connection,
        gateway_id=GATEWAY,
        incarnation="i-1",
        sender="gateway",
    )


async def a_hall(chat: ServiceUnderTest, users: int, connections: int) -> None:
    """A room whose members have some connections each."""
    names = ["eve", *[f"user-{number}" for number in range(users - 1)]]
    await chat.dispatch(*[starts(name, f"{name}-{n}") for name in names for n in range(connections)])
    await chat.dispatch(*[a_join(name) for name in names])
    chat.forget()


async def test_a_message_costs_one_delivery_for_each_receiving_connection(database_url: str) -> None:
    clock = Seconds()
    async with running(database_url, clock, deliveries_per_user=10, deliveries_burst=100) as chat:
        await a_hall(chat, users=5, connections=4)
        clock.now += COUNTED_SECONDS + 60  # counted again, and all buckets are full
        await chat.dispatch(*[a_send(f"m-{number}") for number in range(6)])
        assert [chat.answer(f"m-{number}").action for number in range(5)] == ["chat.send.ok"] * 5
        assert chat.error("m-5") == "rate_limited"
        assert chat.answer("m-5").data["retry_after_ms"] == 2000
        assert len(await chat.rows(MESSAGES)) == 5
        # Others pay for themselves, and a refusal is not kept.
        await chat.dispatch(a_send("other", by="user-1"))
        assert chat.answer("other").action == "chat.send.ok"
        clock.now += 2
        await chat.dispatch(a_send("m-5"))
        assert len(await chat.rows(MESSAGES)) == 7


async def test_a_long_text_costs_more_deliveries(database_url: str) -> None:
    clock = Seconds()
    async with running(database_url, clock, deliveries_per_user=1, deliveries_burst=10) as chat:
        await a_hall(chat, users=2, connections=1)
        clock.now += COUNTED_SECONDS + 60
        await chat.dispatch(a_send("m-0", "x" * 4000), a_send("m-1", "x" * 4000), a_send("m-2", "x" * 4000))
        assert (chat.answer("m-0").action, chat.answer("m-1").action) == ("chat.send.ok", "chat.send.ok")
        assert chat.error("m-2") == "rate_limited"


async def test_a_push_above_the_delivery_limit_is_allowed_once_and_charged(database_url: str) -> None:
    clock = Seconds()
    async with running(database_url, clock, deliveries_per_user=1, deliveries_burst=5) as chat:
        await a_hall(chat, users=10, connections=1)
        clock.now += 60
        await chat.dispatch(a_send("m-0"), a_send("m-1"))
        assert chat.answer("m-0").action == "chat.send.ok"
        assert chat.error("m-1") == "rate_limited"
        assert chat.answer("m-1").data["retry_after_ms"] == 10_000


async def test_typing_is_pushed_twice_at_once_and_then_each_second(database_url: str) -> None:
    clock = Seconds()
    async with running(database_url, clock) as chat:
        await a_hall(chat, users=2, connections=1)
        await chat.dispatch(
            *[a_command("chat.typing", room="hall", by="eve", msg_id=f"t-{n}") for n in range(9)]
        )
        assert [chat.answer(f"t-{n}").action for n in range(9)] == ["chat.typing.ok"] * 9
        assert len(chat.pushes("group.chat:hall")) == 2
        clock.now += 1
        await chat.dispatch(a_command("chat.typing", room="hall", by="eve"))
        assert len(chat.pushes("group.chat:hall")) == 3


async def test_the_connections_of_a_room_are_counted_at_intervals(database_url: str) -> None:
    clock = Seconds()
    async with running(database_url, clock) as chat:
        await a_hall(chat, users=3, connections=1)
        await chat.dispatch(a_send("warm"))

        async def statements(msg_id: str) -> int:
            with counted_statements() as counted:
                await chat.dispatch(a_send(msg_id))
            return len(counted)

        usual = await statements("m-1")
        assert await statements("m-2") == usual
        clock.now += COUNTED_SECONDS + 1
        assert await statements("m-3") == usual + 1
        assert await statements("m-4") == usual


async def test_a_room_that_grows_is_paid_for_by_its_new_size_a_second_later(database_url: str) -> None:
    clock = Seconds()
    async with running(database_url, clock, deliveries_per_user=0.001, deliveries_burst=100) as chat:
        await a_hall(chat, users=2, connections=1)
        await chat.dispatch(a_send("m-0"))
        await chat.dispatch(*[starts("user-0", f"more-{n}") for n in range(48)])
        clock.now += COUNTED_SECONDS + 0.1
        await chat.dispatch(a_send("m-1"), a_send("m-2"))
        assert chat.answer("m-1").action == "chat.send.ok"
        assert chat.error("m-2") == "rate_limited"


async def test_the_connections_of_a_large_room_are_counted_less_often(database_url: str) -> None:
    clock = Seconds()
    async with running(database_url, clock, deliveries_per_user=0) as chat:
        await a_hall(chat, users=2, connections=60)
        clock.now += 60
        await chat.dispatch(a_send("warm"))

        async def statements(msg_id: str) -> int:
            with counted_statements() as counted:
                await chat.dispatch(a_send(msg_id))
            return len(counted)

        usual = await statements("m-1")
        clock.now += COUNTED_SECONDS + 1
        assert await statements("m-2") == usual
        clock.now += 10
        assert await statements("m-3") == usual + 1


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 10_000)), max_size=50))
def test_a_user_never_causes_more_than_burst_and_rate(sends: list[tuple[float, int]]) -> None:
    clock = Seconds()
    fanout, began = FanOut(Rate(10, 50), clock), clock.now
    caused, largest = 0, 0
    for pause, letters in sends:
        clock.now += pause
        try:
            fanout.pay("eve", "hall", letters)
        except RateLimited:
            continue
        cost = 1 + letters // 2048
        caused, largest = caused + cost, max(largest, cost)
    assert caused <= 50 + 10 * (clock.now - began) + largest + 1e-6
