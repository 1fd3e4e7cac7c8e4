"""Positions: what a client does with numbered pushes, however they come."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from pydantic import ValidationError

from towpath.protocol.streams import Arrival, Positions, Resume, Resumed

STREAMS = ["chat:lobby", "chat:dock", "order:ana"]
streams = st.sampled_from(STREAMS)


def test_the_next_entry_is_accepted_a_duplicate_dropped_and_a_hole_noticed() -> None:
    positions = Positions({"chat:lobby": 4})
    assert positions.arrive("chat:lobby", 5) is Arrival.NEXT
    assert positions.arrive("chat:lobby", 5) is Arrival.DUPLICATE
    assert positions.arrive("chat:lobby", 1) is Arrival.DUPLICATE
    assert positions.arrive("chat:lobby", 7) is Arrival.HOLE
    assert positions.arrive("chat:lobby", 6) is Arrival.NEXT
    assert positions.as_dict() == {"chat:lobby": 6}


def test_a_stream_begins_with_its_first_push() -> None:
    positions = Positions()
    assert positions.arrive("chat:lobby", 40) is Arrival.NEXT
    assert positions.arrive("chat:dock", 1) is Arrival.NEXT
    assert positions.as_dict() == {"chat:lobby": 40, "chat:dock": 1}


def test_a_reported_position_only_grows_and_a_restarted_one_may_decrease() -> None:
    positions = Positions({"a": 5})
    positions.set("a", 3)
    assert positions.as_dict() == {"a": 5}
    positions.restart("a", 3)
    assert positions.arrive("a", 4) is Arrival.NEXT


def test_positions_are_returned_as_a_copy() -> None:
    kept = {"chat:lobby": 4}
    positions = Positions(kept)
    positions.arrive("chat:lobby", 5)
    positions.as_dict()["chat:lobby"] = 99
    assert (kept, positions.as_dict()) == ({"chat:lobby": 4}, {"chat:lobby": 5})


class ClientMachine(RuleBasedStateMachine):
    """A service appends; the network loses, doubles and delays; the client shows each entry once, in order."""

    on_the_way = Bundle("on_the_way")

    @initialize(since=st.dictionaries(streams, st.integers(0, 5)))
    def begin(self, since: dict[str, int]) -> None:
        self.positions = Positions({name: since.get(name, 0) for name in STREAMS})
        self.heads = {name: since.get(name, 0) for name in STREAMS}
        self.since = dict(self.heads)
        self.shown: dict[str, list[int]] = {name: [] for name in STREAMS}

    @rule(target=on_the_way, stream=streams)
    def append(self, stream: str) -> tuple[str, int]:
        self.heads[stream] += 1
        return stream, self.heads[stream]

    @rule(push=on_the_way)
    def receive(self, push: tuple[str, int]) -> None:
        stream, seq = push
        arrival = self.positions.arrive(stream, seq)
        if arrival is Arrival.NEXT:
            self.shown[stream].append(seq)
        elif arrival is Arrival.DUPLICATE:
            assert seq in self.shown[stream]
        else:
            self.resume(stream)

    @rule(stream=streams)
    def resume(self, stream: str) -> None:
        for seq in range(self.positions.as_dict()[stream] + 1, self.heads[stream] + 1):
            assert self.positions.arrive(stream, seq) is Arrival.NEXT
            self.shown[stream].append(seq)
        self.positions.set(stream, self.heads[stream])

    @rule(stream=streams, seq=st.integers(0, 3))
    def hear_of_an_older_position(self, stream: str, seq: int) -> None:
        self.positions.set(stream, min(seq, self.positions.as_dict()[stream]))

    @invariant()
    def each_entry_is_shown_once_in_order_without_a_hole(self) -> None:
        for stream, seqs in getattr(self, "shown", {}).items():
            assert seqs == list(range(self.since[stream] + 1, self.since[stream] + 1 + len(seqs)))
            assert self.positions.as_dict()[stream] == self.since[stream] + len(seqs)


TestClient = ClientMachine.TestCase


names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=512)


@given(st.dictionaries(names, st.integers(0, 2**63 - 1), max_size=20))
def test_positions_are_the_data_of_a_resume(positions: dict[str, int]) -> None:
    assert Resume(positions=Positions(positions).as_dict()).positions == positions


@pytest.mark.parametrize(
    "positions",
    [
        {"": 1},
        {"x" * 513: 1},
        {"chat:\0": 1},
        {"chat:lobby": -1},
        {"chat:lobby": 2**63},
        {"chat:lobby": "1"},
        {"chat:lobby": 1.0},
        {"chat:lobby": True},
        {f"chat:{number}": 0 for number in range(1001)},
        ["chat:lobby"],
        None,
    ],
)
def test_positions_outside_the_range_are_refused(positions: Any) -> None:
    with pytest.raises(ValidationError):
        Resume(positions=positions)


def test_a_resumed_stream_has_its_position_and_whether_it_is_complete() -> None:
    assert Resumed(seq=7, complete=True).model_dump() == {"seq": 7, "complete": True}
