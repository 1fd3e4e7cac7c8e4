"""Fair units: a flood delays others by one small unit, and no order is lost."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from towpath.protocol.errors import Busy
from towpath.servicekit.handling.fairness import FAIR_SHARE, FairUnits
from towpath.servicekit.handling.requests import Request
from towpath.testkit.arrivals import SHELF
from towpath.testkit.arrivals import a_request as arrived


def a_request(user: str, verb: str = "put", key: str | None = None) -> Request:
    if verb == "refused":
        return arrived(SHELF, "shelf.put", user, key=key, refusal=Busy("later"))
    return arrived(SHELF, f"shelf.{verb}", user, key=key)


def units(requests: Sequence[Request], limit: int, share: float = FAIR_SHARE) -> list[list[Request]]:
    """All units that are made of ``requests`` when nothing arrives meanwhile."""
    made: list[list[Request]] = []
    waiting = list(requests)
    fair = FairUnits(share)
    while waiting:
        unit, waiting = fair.next(waiting, limit)
        made.append(unit)
    return made


def assert_no_change_after_a_read(unit: Sequence[Request]) -> None:
    """In a unit all changes run before all reads: a read would see a change that was sent later."""
    read: set[tuple[str, str]] = set()
    for request in unit:
        if request.refusal is None and request.handler.changes:
            assert request.sequence_key not in read
        elif request.refusal is None:
            read.add(request.sequence_key)


steps = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["put", "look", "refused"])), max_size=20)


@given(steps, st.integers(1, 6))
def test_units_keep_the_order_and_no_change_overtakes_a_read(
    steps: list[tuple[str, str]], limit: int
) -> None:
    requests = [a_request("ana", verb, key) for key, verb in steps]
    made = units(requests, limit)
    assert [request for unit in made for request in unit] == requests
    assert all(0 < len(unit) <= limit for unit in made)
    for unit in made:
        assert_no_change_after_a_read(unit)


def test_a_unit_is_as_large_as_its_limit_allows() -> None:
    requests = [a_request("ana") for _ in range(5)]
    assert [len(unit) for unit in units(requests, 2)] == [2, 2, 1]
    assert [len(unit) for unit in units(requests, 100)] == [5]
    assert units([], 2) == []


def test_a_flood_of_one_sender_is_not_in_the_next_unit_of_another() -> None:
    flood = [a_request("eve") for _ in range(200)]
    ana = a_request("ana")
    made = units([*flood, ana], 500, share=50)
    # Once no other sender waits, its requests run in one unit.
    assert made == [[ana], flood]


def test_floods_of_many_senders_are_not_in_the_next_unit_of_another() -> None:
    floods = [a_request(f"eve{sender}") for _ in range(60) for sender in range(10)]
    ana = a_request("ana")
    made = units([*floods, ana], 500, share=100)
    assert made[0] == [ana]
    assert len(made[1]) <= 100


def test_a_crowd_with_one_ordering_key_is_not_in_the_next_unit_of_another_key() -> None:
    crowd = [a_request(f"guest-{number}", key="arena") for number in range(200)]
    ana = a_request("ana", key="kitchen")
    made = units([*crowd, ana], 500, share=50)
    # Once no other key waits, the crowd runs in one unit.
    assert made == [[ana], crowd]


def test_every_second_unit_is_shared_with_a_flood_so_that_it_proceeds_by_its_part() -> None:
    waiting = [a_request("eve") for _ in range(300)]
    fair = FairUnits(share=50)
    shares: list[int] = []
    for _ in range(6):
        waiting.append(ana := a_request("ana"))
        unit, waiting = fair.next(waiting, 500)
        assert ana in unit
        shares.append(len(unit) - 1)
    assert shares == [0, 25, 0, 25, 0, 25]


def test_a_request_behind_a_flood_in_its_room_keeps_its_place() -> None:
    flood = [a_request("eve", key="lobby") for _ in range(200)]
    ben = a_request("ben", key="lobby")
    ana = a_request("ana", key="kitchen")
    made = units([*flood, ben, ana], 500, share=50)
    assert made[0] == [ana]
    assert [request for unit in made[1:] for request in unit] == [*flood, ben]


mixed = st.lists(
    st.tuples(
        st.sampled_from(["ana", "bob", "eve"]),
        st.sampled_from(["put", "look"]),
        st.sampled_from([None, "room-1", "room-2"]),
    ),
    max_size=40,
)


@given(mixed, st.integers(1, 6), st.integers(1, 10))
def test_fair_units_keep_the_order_of_each_key_and_lose_nothing(
    steps: list[tuple[str, str, str | None]], share: int, limit: int
) -> None:
    requests = [a_request(user, verb, key) for user, verb, key in steps]
    made = units(requests, limit, share=share)
    flat = [request for unit in made for request in unit]
    assert sorted(map(id, flat)) == sorted(map(id, requests))
    assert all(0 < len(unit) <= limit for unit in made)

    def by_key(requests: Sequence[Request]) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for request in requests:
            found.setdefault(request.sequence_key[1], []).append(id(request))
        return found

    assert by_key(flat) == by_key(requests)
    for unit in made:
        assert_no_change_after_a_read(unit)
