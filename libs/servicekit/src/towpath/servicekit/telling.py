"""Telling: what follows from a finished batch, in its order, until the broker has confirmed all of it.

Guarantees: groups are changed first, and only once the gateways have that is it read what to replay, so that
nothing falls between: what is committed after the read is pushed after the subscription. A delivery is acked only
when everything that follows from it is confirmed; what the broker does not take is told again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec
import sqlalchemy as sa
import structlog

from towpath.protocol.envelope import write
from towpath.protocol.errors import TowpathError
from towpath.protocol.messages import NO_JSON, Directed, Session
from towpath.protocol.routes import PUSH
from towpath.servicekit.broker.interface import BrokerError, Delivery
from towpath.servicekit.lanes import LaneFull
from towpath.servicekit.outcome import Outcome, Settled, answer_data
from towpath.servicekit.pauses import pauses
from towpath.servicekit.publisher import Publisher
from towpath.servicekit.receipts import Receipt
from towpath.servicekit.requests import Request
from towpath.servicekit.streams import Replay

log = structlog.get_logger(__name__)

_LANE_PAUSE: Final = 0.02
#: The broker is away, or the database is while entries are to be replayed.
NOT_TOLD: Final = (BrokerError, sa.exc.SQLAlchemyError, OSError)

#: Reads, for each of several clients, what came after its positions.
Replays = Callable[[Sequence[Mapping[str, int]]], Awaitable[list[dict[str, Replay]]]]


@dataclass(slots=True)
class Result:
    """What is to be told about one request.

    Attributes:
        session: Who asked; ``None`` for an event.
        outcome: What the handler returned, where it ran just now.
        answer_only: A client's repetition: its pushes left long ago.
        changed: It changed state, which the user's other connections follow.
        for_now: Refused with an error that may pass: the inbox does not keep it, and a repetition is handled again.
        park: An event that was refused, and why.
    """

    session: Session | None
    settled: Settled
    traceparent: str
    request: Request | None = None
    outcome: Outcome | None = None
    answer_only: bool = False
    changed: bool = False
    for_now: bool = False
    park: TowpathError | None = None


class Teller:
    """Tells what follows from results.

    Args:
        replays: Reads stream entries; ``None`` for a service that keeps none.
    """

    def __init__(self, publisher: Publisher, replays: Replays | None) -> None:
        self._publisher = publisher
        self._replays = replays

    async def tell(self, results: Sequence[Result], receipt: Receipt) -> None:
        """Queue everything that follows from ``results``, in their order.

        Raises:
            NOT_TOLD: Not all of it is queued.
        """
        replays = await self._subscribe(results)
        publisher = self._publisher
        for result, replayed in zip(results, replays, strict=True):
            if not result.answer_only:
                for item in result.settled.outgoing:
                    await _queue(receipt, partial(publisher.post, item, receipt.settle))
            if (session := result.session) is not None:
                for directed in _directed(result, session, replayed):
                    post = partial(publisher.direct, session, directed, receipt.settle, result.traceparent)
                    await _queue(receipt, post)

    async def _subscribe(self, results: Sequence[Result]) -> list[dict[str, Replay]]:
        """Change groups, wait until the broker has told the gateways, and only then read what to replay to each.

        In that order nothing falls between: what is committed after the read is pushed after the subscription.
        """
        receipt = Receipt()
        for result in results:
            settled = result.settled
            if not settled.subscribe and not settled.unsubscribe:
                continue
            target = (result.outcome.connection if result.outcome else None) or result.session
            if target is not None:
                item = Directed(
                    connection_id=target.connection_id,
                    subscribe=settled.subscribe,
                    unsubscribe=settled.unsubscribe,
                )
                await _queue(receipt, partial(self._publisher.direct, target, item, receipt.settle))
            if result.changed and result.session is not None:
                item = Directed(subscribe=settled.subscribe, unsubscribe=settled.unsubscribe)
                user_id = result.session.user_id
                await _queue(receipt, partial(self._publisher.control, user_id, item, receipt.settle))
        await receipt.confirmed()
        starts = _starts(results)
        if self._replays is None or not any(starts):
            return [{} for _ in results]
        return await self._replays(starts)

    async def settle(
        self, deliveries: Sequence[Delivery], results: Sequence[Result], receipt: Receipt
    ) -> None:
        """Wait for the confirms of what :meth:`tell` queued, tell again what has none, and ack ``deliveries``."""
        # Committed but not told: told again until the broker takes it. If it was away meanwhile, the deliveries
        # are stale; they come again, and the inbox tells once more.
        async for _ in pauses():
            try:
                await receipt.confirmed()
                break
            except BrokerError as error:
                log.warning("not_published", deliveries=len(deliveries), error=repr(error)[:300])
            receipt = Receipt()
            try:
                await self.tell(results, receipt)
            except NOT_TOLD as error:
                receipt.fail(error)
        for delivery in deliveries:
            delivery.ack()


def answer_json(request: Request, outcome: Outcome, replays: Mapping[str, Replay], trace: str) -> msgspec.Raw:
    answer = outcome.answer(replays) if callable(outcome.answer) else outcome.answer
    if answer is None or request.session is None:
        return NO_JSON
    return msgspec.Raw(
        write(
            f"{request.envelope.action}.ok",
            answer_data(answer),
            correlation_id=request.envelope.msg_id,
            traceparent=trace,
        )
    )


def _directed(result: Result, session: Session, replays: Mapping[str, Replay]) -> list[Directed]:
    """The replayed entries and the answer, for the asking connection."""
    settled = result.settled
    items = [
        Directed(connection_id=session.connection_id, envelope=msgspec.Raw(entry))
        for stream in replays.values()
        for entry in stream.entries
    ]
    answer = settled.answer
    if not answer and result.request is not None and result.outcome is not None:
        answer = answer_json(result.request, result.outcome, replays, result.traceparent)
    if answer:
        items.append(Directed(connection_id=session.connection_id, envelope=answer))
    return items


async def _queue(receipt: Receipt, post: Callable[[], None]) -> None:
    """Queue one item, waiting for room where a lane is full."""
    while True:
        try:
            post()
        except LaneFull:
            await asyncio.sleep(_LANE_PAUSE)
        else:
            receipt.sent()
            return


class _Place(msgspec.Struct):
    """Where an envelope stands, if it is of a stream."""

    stream: str = ""
    seq: int = 0


_PLACE: Final = msgspec.json.Decoder(_Place)


def _starts(results: Sequence[Result]) -> list[Mapping[str, int]]:
    """The positions from which each result is to be replayed.

    What is about to be pushed, after the subscription, need not be replayed as well: else a thousand who join a room
    together would each be told of all others twice. (An answer that tells of the replay needs all of it.)
    """
    if not any(result.settled.replay for result in results):
        return [{} for _ in results]
    pushed: dict[str, set[int]] = {}
    for result in results:
        for item in () if result.answer_only else result.settled.outgoing:
            if item.exchange == PUSH and (place := _PLACE.decode(item.item)).stream:
                pushed.setdefault(place.stream, set()).add(place.seq)
    last: dict[tuple[str, int], int] = {}
    for stream, seqs in pushed.items():
        for seq in sorted(seqs, reverse=True):
            last[stream, seq] = last.get((stream, seq + 1), seq)
    return [
        {stream: last.get((stream, seq + 1), seq) for stream, seq in result.settled.replay.items()}
        if result.settled.answer
        else result.settled.replay
        for result in results
    ]
