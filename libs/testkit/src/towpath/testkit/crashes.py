"""Crashes: a program of a service ends at a chosen moment, in a test.

The process of the test goes on: the crash is an exception that no code of a service handles, at the moment in
question, and a broker that gets no ack. The transaction is rolled back or committed for real.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.servicekit.broker.interface import Delivery
from towpath.servicekit.storage.database import Database


class Crash(BaseException):
    """The program ends here. Not an ``Exception``: no retry and no fallback handles it."""


class DiesBeforeCommit(Database):
    """The database of a program that ends when its unit of work is complete, and COMMIT is not sent yet."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        async with super().transaction() as connection:
            yield connection
            raise Crash


class DiesAfterCommit(Database):
    """The database of a program that ends when COMMIT is confirmed, and nothing is published yet."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        async with super().transaction() as connection:
            yield connection
        raise Crash


def without_ack(delivery: Delivery) -> Delivery:
    """``delivery`` for a program whose ack never arrives."""
    return cast("Delivery", _WithoutAck(delivery))


class _WithoutAck:
    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery

    def __getattr__(self, name: str) -> Any:
        return getattr(self._delivery, name)

    def ack(self) -> None: ...
    def reject(self) -> None: ...
    def requeue(self) -> None: ...
