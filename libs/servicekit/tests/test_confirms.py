"""Pending confirms: one wait for many messages."""

import asyncio

import pytest

from towpath.servicekit.broker.interface import BrokerError
from towpath.servicekit.messaging.confirms import PendingConfirms


def expect(number: int) -> PendingConfirms:
    confirms = PendingConfirms()
    for _ in range(number):
        confirms.expect()
    return confirms


async def test_the_wait_ends_with_the_last_confirm() -> None:
    confirms = expect(2)
    waiting = asyncio.ensure_future(confirms.confirmed())
    confirms.resolve(None)
    await asyncio.sleep(0)
    assert not waiting.done()
    confirms.resolve(None)
    await waiting


async def test_the_wait_ends_at_once_if_all_confirms_have_arrived() -> None:
    confirms = expect(1)
    confirms.resolve(None)
    await confirms.confirmed()
    await PendingConfirms().confirmed()


async def test_it_raises_the_first_error_once_all_are_resolved() -> None:
    confirms = expect(3)
    waiting = asyncio.ensure_future(confirms.confirmed())
    confirms.resolve(BrokerError("the first"))
    confirms.resolve(None)
    await asyncio.sleep(0)
    assert not waiting.done()
    confirms.resolve(BrokerError("the second"))
    with pytest.raises(BrokerError, match="the first"):
        await waiting


async def test_a_message_that_could_not_be_queued_is_a_failure() -> None:
    confirms = expect(1)
    confirms.fail(ValueError("no database"))
    confirms.resolve(None)
    with pytest.raises(BrokerError, match="no database"):
        await confirms.confirmed()


async def test_a_cancelled_wait_has_no_effect() -> None:
    confirms = expect(1)
    waiting = asyncio.ensure_future(confirms.confirmed())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    confirms.resolve(None)
    await confirms.confirmed()
