"""Fair units: a flood delays others by one small unit, and no order is lost."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from towpath.protocol.errors import Busy
from towpath.servicekit.handling.fairness import FAIR_SHARE, next_unit
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
    while waiting:
        unit, waiting = next_unit(waiting, limit, share)
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


def test_one_sender_with_many_requests_delays_the_others_by_one_share() -> None:
    flood = [a_request("eve") for _ in range(200)]
    ana = a_request("ana")
    made = units([*flood, ana], 500, share=50)
    assert ana in made[0]
    assert len(made[0]) == 26
    assert [request for unit in made for request in unit if request is not ana] == flood
    # Once no other sender waits, its requests run in one unit.
    assert [len(unit) for unit in made] == [26, 175]


def test_many_flooding_senders_delay_another_by_one_small_unit() -> None:
    floods = [a_request(f"eve{sender}") for _ in range(60) for sender in range(10)]
    ana = a_request("ana")
    made = units([*floods, ana], 500, share=100)
    assert ana in made[0]
    assert len(made[0]) <= 100


def test_a_crowd_with_one_ordering_key_delays_requests_with_other_keys_by_one_share() -> None:
    crowd = [a_request(f"guest-{number}", key="arena") for number in range(200)]
    ana = a_request("ana", key="kitchen")
    made = units([*crowd, ana], 500, share=50)
    assert ana in made[0]
    assert len(made[0]) == 51
    assert [request for unit in made for request in unit if request is not ana] == crowd
    # Once no other key waits, the crowd runs in one unit.
    assert [len(unit) for unit in made] == [51, 150]


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
