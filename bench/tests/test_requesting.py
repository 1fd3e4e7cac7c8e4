"""The generator counts every request once, whatever a system does with it."""

import asyncio
from typing import Any

import pytest

from bench.generator.requesting import run
from bench.histogram import Histogram

from .misbehaving import Send, Treat, answer, answering, refusal, willing

pytestmark = pytest.mark.usefixtures("capsys")  # the generator speaks to the runner on standard output


async def asked(treat: Treat, *, rate: float | None = None, seconds: float = 0.3) -> dict[str, Any]:
    async with answering(treat) as url:
        return await run(
            willing(),
            urls=[url],
            language="plain",
            kind="echo",
            clients=2,
            in_flight=4,
            rate=rate,
            warm_up=0.0,
            seconds=seconds,
        )


def faults(result: dict[str, Any]) -> dict[str, int]:
    names = ("lost", "duplicates", "disorder", "refused", "cut_off")
    return {name: result[name] for name in names if result[name]}


async def test_a_system_that_answers_everything_has_no_faults() -> None:
    async def treat(place: int, number: int, send: Send) -> None:
        await send(answer(number))

    result = await asked(treat)
    assert faults(result) == {}
    assert result["count"] == Histogram.from_json(result["times"]).total > 0


async def test_a_second_answer_is_a_duplicate() -> None:
    async def treat(place: int, number: int, send: Send) -> None:
        for _ in range(2 if place == 3 else 1):
            await send(answer(number))

    assert faults(await asked(treat)) == {"duplicates": 2}  # one of each client


async def test_answers_that_overtake_are_out_of_order() -> None:
    kept: list[int] = []

    async def treat(place: int, number: int, send: Send) -> None:
        if number == 1:
            kept.append(number)
            return
        await send(answer(number))
        if number == 2:
            await send(answer(kept.pop()))

    assert faults(await asked(treat)) == {"disorder": 1}


async def test_a_refusal_is_neither_an_answer_nor_lost() -> None:
    async def treat(place: int, number: int, send: Send) -> None:
        await send(refusal(number) if number == 5 else answer(number))

    assert faults(await asked(treat)) == {"refused": 1}


async def test_a_request_without_an_answer_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.generator.requesting._LAST_SECONDS", 0.2)

    async def treat(place: int, number: int, send: Send) -> None:
        if number not in (2, 3):
            await send(answer(number))

    assert faults(await asked(treat)) == {"lost": 2}


async def test_at_a_steady_rate_a_stall_delays_every_request_due_meanwhile() -> None:
    async def treat(place: int, number: int, send: Send) -> None:
        if place == 10:
            await asyncio.sleep(0.3)
        await send(answer(number))

    result = await asked(treat, rate=200.0, seconds=1.0)
    times = Histogram.from_json(result["times"])
    late = sum(count for place, count in times.counts.items() if Histogram({place: 1}).quantile(1) > 100_000)
    # 60 a client are due in 0.3 s; those of the first 0.2 s wait for more than 0.1 s.
    assert late > 20
    assert faults(result) == {}
