"""Receipts: many confirms as one."""

import asyncio

import pytest

from towpath.servicekit.broker.interface import BrokerError
from towpath.servicekit.receipts import Receipt


def sent(number: int) -> Receipt:
    receipt = Receipt()
    for _ in range(number):
        receipt.sent()
    return receipt


async def test_it_is_confirmed_when_the_last_one_is() -> None:
    receipt = sent(2)
    waiting = asyncio.ensure_future(receipt.confirmed())
    receipt.settle(None)
    await asyncio.sleep(0)
    assert not waiting.done()
    receipt.settle(None)
    await waiting


async def test_confirms_that_came_already_are_not_waited_for() -> None:
    receipt = sent(1)
    receipt.settle(None)
    await receipt.confirmed()
    await Receipt().confirmed()


async def test_it_tells_the_first_failure_once_all_are_settled() -> None:
    receipt = sent(3)
    waiting = asyncio.ensure_future(receipt.confirmed())
    receipt.settle(BrokerError("the first"))
    receipt.settle(None)
    await asyncio.sleep(0)
    assert not waiting.done()
    receipt.settle(BrokerError("the second"))
    with pytest.raises(BrokerError, match="the first"):
        await waiting


async def test_what_could_not_even_be_sent_is_a_failure() -> None:
    receipt = sent(1)
    receipt.fail(ValueError("no database"))
    receipt.settle(None)
    with pytest.raises(BrokerError, match="no database"):
        await receipt.confirmed()


async def test_who_gives_up_waiting_disturbs_nothing() -> None:
    receipt = sent(1)
    waiting = asyncio.ensure_future(receipt.confirmed())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    receipt.settle(None)
    await receipt.confirmed()
