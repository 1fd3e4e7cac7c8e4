"""Assignment: each replica gets its share, and as few queues as possible move."""

from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from towpath.servicekit.messaging.assignment import share

QUEUES: Final = [f"q{number}" for number in range(8)]

replicas = st.lists(st.sampled_from("abcdefghijkl"), min_size=1, max_size=12, unique=True)


@st.composite
def claims(draw: st.DrawFn) -> dict[str, set[str]]:
    """The announced queues of replicas; two may announce the same, and some queues may be missing."""
    return {name: draw(st.sets(st.sampled_from(QUEUES))) for name in draw(replicas)}


def loads(shares: dict[str, str], names: list[str] | dict[str, set[str]]) -> list[int]:
    return [sum(one == name for one in shares.values()) for name in names]


@settings(deadline=None)
@given(claims())
def test_each_replica_gets_its_share_and_every_queue_has_one(claimed: dict[str, set[str]]) -> None:
    shares = share(QUEUES, claimed)
    assert set(shares) == set(QUEUES)
    least, rest = divmod(len(QUEUES), len(claimed))
    assert sorted(loads(shares, claimed), reverse=True) == [least + 1] * rest + [least] * (
        len(claimed) - rest
    )


@settings(deadline=None)
@given(claims())
def test_fair_shares_stay_as_they_are(claimed: dict[str, set[str]]) -> None:
    shares = share(QUEUES, claimed)
    settled = {name: {queue for queue, one in shares.items() if one == name} for name in claimed}
    assert share(QUEUES, settled) == shares


@settings(deadline=None)
@given(replicas)
def test_a_new_replica_gets_its_share_and_nothing_else_moves(names: list[str]) -> None:
    first = share(QUEUES, {name: set() for name in names})
    settled = {name: {queue for queue, one in first.items() if one == name} for name in names}
    after = share(QUEUES, {**settled, "newcomer": set()})
    moved = [queue for queue in QUEUES if after[queue] != first[queue]]
    assert all(after[queue] == "newcomer" for queue in moved)
    assert len(moved) == len(QUEUES) // (len(names) + 1)


@settings(deadline=None)
@given(replicas.filter(lambda names: len(names) > 1), st.data())
def test_when_a_replica_leaves_only_its_queues_move(names: list[str], data: st.DataObject) -> None:
    first = share(QUEUES, {name: set() for name in names})
    gone = data.draw(st.sampled_from(names))
    left = {name: {queue for queue, one in first.items() if one == name} for name in names if name != gone}
    after = share(QUEUES, left)
    assert [queue for queue in QUEUES if after[queue] != first[queue]] == [
        queue for queue in QUEUES if first[queue] == gone
    ]


def test_queues_of_another_kind_burden_other_replicas() -> None:
    names = {"a": set[str](), "b": set[str](), "c": set[str]()}
    commands, events = share(QUEUES, names), share(["events"], names, surplus_last=True)
    assert loads(commands, names) == [3, 3, 2]
    assert events == {"events": "c"}


def test_no_replica_is_left_without_queues() -> None:
    assert share(QUEUES, {}) == {}
