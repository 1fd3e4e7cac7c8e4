"""The group changes of a batch are correct at its commit, for first deliveries and for repetitions."""

from collections import Counter
from collections.abc import Iterable, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.servicekit.handling.requests import Request
from towpath.servicekit.handling.result import Result
from towpath.servicekit.storage import group_numbers
from towpath.servicekit.storage.group_numbers import Groups, MayReceive


async def number_before(connection: AsyncConnection, groups: Groups | None, reads: Sequence[Request]) -> int:
    """The number up to which the groups that ``reads`` will list include all changes; 0 if none lists any."""
    if groups is None or not any(request.handler.groups for request in reads):
        return 0
    return await group_numbers.read_number(connection, groups.numbers)


async def number_and_correct(
    connection: AsyncConnection, groups: Groups | None, results: Iterable[Result]
) -> None:
    """Give the group changes of ``results`` their number, and :func:`correct` them.

    The number is taken last in a transaction, because other transactions wait for the next one until the commit; and
    before the correction, which then sees every change with a lower number.
    """
    changing = [result for result in results if result.stored.changes_groups]
    if groups is None or not changing:
        return
    # Taken before `correct` reads: transactions with a lower number have committed by then, and are seen. PostgreSQL
    # holds the row lock until COMMIT. https://www.postgresql.org/docs/current/explicit-locking.html#LOCKING-ROWS
    number = await group_numbers.next_number(connection, groups.numbers)
    await correct(connection, groups.may_receive, changing)
    for result in changing:
        result.number = number


async def correct(connection: AsyncConnection, may_receive: MayReceive, results: Iterable[Result]) -> None:
    """Reduce the group changes of ``results`` to those that are correct now; one query at most.

    Two kinds may be wrong by now:

    1. A repetition: the user may have left the group since, or joined it.
    2. Several requests of the batch that name one user and group: messages to one connection and messages to all
       connections of a user take different routes, so nothing says which arrives last.
    """
    named = [(result, pairs) for result in results if (pairs := _named(result))]
    times = Counter(pair for _, pairs in named for pair in pairs)
    unsure = [
        (result, pairs)
        for result, pairs in named
        if result.outcome is None or any(times[pair] > 1 for pair in pairs)
    ]
    # The usual case: a first delivery, and no other request of the batch names the user and group. No query.
    if not unsure:
        return
    # In this transaction, after its changes and its number: the answer is what COMMIT makes true.
    allowed = await may_receive(connection, {pair for _, pairs in unsure for pair in pairs})
    for result, _ in unsure:
        user_id = None if result.session is None else result.session.user_id
        own = {group for allowed_user, group in allowed if allowed_user == user_id}
        result.stored = result.stored.within(own, allowed)


def _named(result: Result) -> set[tuple[str, str]]:
    """The pairs of a user and a group or stream that a result names."""
    stored = result.stored
    pairs = {(leave.user_id, leave.group) for leave in stored.leaves}
    if result.session is not None:
        pairs |= {(result.session.user_id, group) for group in stored.names}
    return pairs
