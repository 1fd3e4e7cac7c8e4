"""The membership changes of a batch are correct at its commit, for first deliveries and for repetitions."""

from collections import Counter
from collections.abc import Iterable

from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.servicekit.handling.publishing import Result
from towpath.servicekit.storage.group_numbers import MayReceive


async def correct(connection: AsyncConnection, may_receive: MayReceive, results: Iterable[Result]) -> None:
    """Reduce the membership changes of ``results`` to those that are correct now; one query at most.

    A repetition may be outdated: the user may have left or joined since. And if several requests concern one user and
    group, messages to one connection and to all connections of a user have no common order.
    """
    named = [(result, pairs) for result in results if (pairs := _named(result))]
    times = Counter(pair for _, pairs in named for pair in pairs)
    doubtful = [
        (result, pairs)
        for result, pairs in named
        if result.outcome is None or any(times[pair] > 1 for pair in pairs)
    ]
    if not doubtful:
        return
    right = await may_receive(connection, {pair for _, pairs in doubtful for pair in pairs})
    for result, _ in doubtful:
        user = None if result.session is None else result.session.user_id
        result.stored = result.stored.within({group for who, group in right if who == user}, right)


def _named(result: Result) -> set[tuple[str, str]]:
    """The pairs of a user and a group or stream that a result names."""
    settled = result.stored
    pairs = {(leave.user_id, leave.group) for leave in settled.leaves}
    if result.session is not None:
        pairs |= {(result.session.user_id, group) for group in settled.names}
    return pairs
