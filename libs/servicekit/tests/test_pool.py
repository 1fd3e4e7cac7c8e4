"""What waits in a service is shared by its senders, whenever they came."""

from collections.abc import Sequence
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from towpath.protocol.envelope import make
from towpath.protocol.messages import Session, encode, wrap_command
from towpath.servicekit.broker.interface import Delivery
from towpath.servicekit.handling.outcome import Outcome
from towpath.servicekit.handling.pending import PendingRequests
from towpath.servicekit.handling.publishing import SharedAck
from towpath.servicekit.handling.requests import FAIR_SHARE, Handler, Refusal, Request, read_item
from towpath.servicekit.runtime.settings import TelemetrySettings
from towpath.servicekit.runtime.telemetry import Telemetry

LIMIT = 500


class Anything(BaseModel):
    n: int = 0


def nothing(*_: Any) -> Outcome:
    return Outcome()


HANDLERS: dict[str, Handler] = {
    "shelf.put": Handler(Anything, nothing),
    "shelf.list": Handler(Anything, nothing, changes=False, cost=20),
}
TELEMETRY = Telemetry("test", TelemetrySettings())


class Came:
    """A delivery that counts its acks."""

    routing_key = queue = exchange = "shelf.commands.0"
    redelivered = False
    app_id: str | None = None
    headers: dict[str, Any] = {}  # noqa: RUF012  # nobody writes to it

    def __init__(self) -> None:
        self.acks = 0

    def ack(self) -> None:
        self.acks += 1


def an_ack(came: Came) -> SharedAck:
    return SharedAck(cast("Delivery", came))


def a_request(user: str, action: str = "shelf.put") -> Request:
    session = Session(user_id=user, connection_id=f"c-{user}", gateway_id="g")
    item = wrap_command(encode(session), make(action, {}).to_json())
    request = read_item(cast("Delivery", Came()), item, HANDLERS, {}, TELEMETRY)
    assert isinstance(request, Request)
    return request


def all_units(pool: PendingRequests) -> list[list[Request | Refusal]]:
    units = []
    while pool.has_more():
        unit, acks = pool.next_unit(LIMIT)
        for ack in acks:
            ack.release()
        for _, ack in pool.ready_heavy_reads():
            ack.release()
        units.append(unit)
    return units


def put(pool: PendingRequests, requests: Sequence[Request]) -> list[Came]:
    """Each request as a delivery of its own."""
    came = []
    for request in requests:
        came.append(delivery := Came())
        ack = an_ack(delivery)
        pool.add(request, 100, ack)
        pool.all_added(ack)
    return came


def test_a_request_that_arrives_during_a_flood_is_in_the_next_unit() -> None:
    pool = PendingRequests()
    put(pool, [a_request(f"eve-{number % 10}") for number in range(1000)])
    put(pool, [a_request("ben")])
    first, _ = pool.next_unit(LIMIT)
    assert len(first) <= FAIR_SHARE + 10
    ana = a_request("ana")
    put(pool, [ana])
    second, _ = pool.next_unit(LIMIT)
    assert ana in second


def test_a_delivery_is_released_with_the_last_of_its_items() -> None:
    pool, came = PendingRequests(), Came()
    ack = an_ack(came)
    for number in range(250):
        pool.add(a_request(f"eve-{number % 2}"), 10, ack)
    pool.all_added(ack)
    seen = 0
    while pool.has_more():
        unit, acks = pool.next_unit(LIMIT)
        seen += len(unit)
        assert came.acks == 0
        for one in acks:
            one.release()
    assert (seen, came.acks, pool.bytes) == (250, 1, 0)


def test_a_delivery_with_nothing_in_it_is_released_too() -> None:
    pool, came = PendingRequests(), Came()
    pool.all_added(an_ack(came))
    assert all_units(pool) == [[]]
    assert came.acks == 1


def test_a_heavy_read_waits_for_earlier_requests_of_its_sender() -> None:
    pool = PendingRequests()
    put(pool, [a_request("eve") for _ in range(150)] + [a_request("ana")])
    read, ack = a_request("eve", "shelf.list"), an_ack(Came())
    pool.add_heavy_read(read, ack)
    put(pool, [a_request("eve") for _ in range(150)])
    run = 0
    while run < 150:
        assert [*pool.ready_heavy_reads()] == []
        unit, _ = pool.next_unit(LIMIT)
        run += sum(request.sender == "user:eve" for request in unit)
    assert [*pool.ready_heavy_reads()] == [(read, ack)]


steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["put", "list"]), st.sampled_from(["ana", "ben", "eve"])),
        st.just(("work", "")),
    ),
    max_size=60,
)


@given(steps, st.integers(1, 5))
def test_nothing_is_lost_and_each_senders_order_is_kept(steps: list[tuple[str, str]], limit: int) -> None:
    pool, sent, done, came = PendingRequests(), [], [], []

    def work() -> None:
        unit, acks = pool.next_unit(limit)
        done.extend(unit)
        for ack in acks:
            ack.release()
        for read, ack in pool.ready_heavy_reads():
            done.append(read)
            ack.release()

    for what, who in steps:
        if what == "work":
            work()
            continue
        sent.append(request := a_request(who, f"shelf.{what}"))
        came.append(delivery := Came())
        ack = an_ack(delivery)
        if what == "list":
            pool.add_heavy_read(request, ack)
        else:
            pool.add(request, 10, ack)
        pool.all_added(ack)
    while pool.has_more():
        work()
    assert sorted(map(id, done)) == sorted(map(id, sent))
    assert [delivery.acks for delivery in came] == [1] * len(came)
    assert pool.bytes == 0
    for who in ("ana", "ben", "eve"):
        for kind in ("shelf.put", "shelf.list"):
            ours = [r for r in sent if r.sender == who and r.envelope.action == kind]
            assert [r for r in done if r in ours] == ours
    for place, read in enumerate(sent):
        if read.envelope.action == "shelf.list":
            before = [r for r in sent[:place] if r.sender == read.sender]
            assert all(done.index(r) < done.index(read) for r in before)
