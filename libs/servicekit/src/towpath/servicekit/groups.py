"""Groups: who may hear what, after a batch that changed it.

Guarantee: what a batch does to groups is right by the time it is committed, whether its requests come for the first
time or again, and in whichever order its instructions reach the gateways.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Set

from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.servicekit.telling import Result

#: Of pairs of a user and a group or stream, those that are right by now: that user may hear it.
MayHear = Callable[[AsyncConnection, Collection[tuple[str, str]]], Awaitable[Set[tuple[str, str]]]]


async def correct(connection: AsyncConnection, may_hear: MayHear, results: Iterable[Result]) -> None:
    """Of what ``results`` do to groups, leave what is right, where that may be something else; one question at most.

    It may be for a repetition: the user may have left or come back since. And it may be where several requests are
    about one user and group, because what goes to a connection and what goes to all of a user's has no order.
    """
    named = [
        (result, {(result.session.user_id, group) for group in result.settled.heard})
        for result in results
        if result.session is not None and result.settled.heard
    ]
    times = Counter(pair for _, pairs in named for pair in pairs)
    doubtful = [
        (result, pairs)
        for result, pairs in named
        if result.outcome is None or any(times[pair] > 1 for pair in pairs)
    ]
    if not doubtful:
        return
    right = await may_hear(connection, {pair for _, pairs in doubtful for pair in pairs})
    for result, pairs in doubtful:
        result.settled = result.settled.within({group for _, group in pairs & right})
