"""Positions in streams: nothing missed, nothing twice, whatever the order."""

from hypothesis import given, settings
from hypothesis import strategies as st

from towpath.client.positions import Positions

STREAM = "chat:lobby"


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[int, int, list[int]]:
    """A position, how far the stream goes, and its entries in any order, some of them twice."""
    first = draw(st.integers(0, 5))
    last = first + draw(st.integers(1, 20))
    entries = list(range(first + 1, last + 1))
    again = draw(st.lists(st.integers(max(1, first - 3), last), max_size=20))
    return first, last, draw(st.permutations(entries + again))


@given(arrivals())
def test_any_order_with_duplicates_emits_each_entry_once_in_order(
    entries: tuple[int, int, list[int]],
) -> None:
    first, last, seqs = entries
    positions: Positions[int] = Positions({STREAM: first})
    out = [push for seq in seqs for push in positions.arrive(STREAM, seq, seq)]
    assert out == list(range(first + 1, last + 1))
    assert positions.as_dict() == {STREAM: last}
    assert not positions.is_behind(STREAM)


@given(arrivals(), st.data())
def test_missing_entries_are_filled_by_the_replay(
    entries: tuple[int, int, list[int]], data: st.DataObject
) -> None:
    first, last, seqs = entries
    lost = data.draw(st.sets(st.sampled_from(range(first + 1, last + 1))))
    positions: Positions[int] = Positions({STREAM: first})
    out = [push for seq in seqs if seq not in lost for push in positions.arrive(STREAM, seq, seq)]
    asked = positions.as_dict()[STREAM]
    out += [push for seq in range(asked + 1, last + 1) for push in positions.arrive(STREAM, seq, seq)]
    out += positions.resumed(STREAM, asked, last, True)[0]
    assert out == list(range(first + 1, last + 1))
    assert not positions.is_behind(STREAM)


@given(arrivals(), st.data())
def test_an_opened_stream_emits_pushes_after_its_position(
    entries: tuple[int, int, list[int]], data: st.DataObject
) -> None:
    first, last, seqs = entries
    cut = data.draw(st.integers(0, len(seqs)))
    positions: Positions[int] = Positions({})
    positions.open(STREAM)
    before = [positions.arrive(STREAM, seq, seq) for seq in seqs[:cut]]
    assert before == [[]] * cut
    out = positions.track(STREAM, first)
    out += [push for seq in seqs[cut:] for push in positions.arrive(STREAM, seq, seq)]
    assert out == list(range(first + 1, last + 1))


@settings(max_examples=20)
@given(st.integers(1_001, 1_500))
def test_held_pushes_are_bounded_and_the_rest_is_known_to_be_missing(count: int) -> None:
    positions: Positions[int] = Positions({STREAM: 0})
    for seq in range(2, count + 2):
        assert positions.arrive(STREAM, seq, seq) == []
    assert positions.arrive(STREAM, 1, 1) == list(range(1, 1_002))
    assert positions.is_behind(STREAM) == (count > 1_000)


def test_every_change_of_a_position_is_counted() -> None:
    positions: Positions[int] = Positions({})
    counted = [positions.changes]
    for change in (
        lambda: positions.arrive(STREAM, 5, 5),
        lambda: positions.arrive(STREAM, 8, 8),
        lambda: positions.resumed(STREAM, 5, 7, True),
        lambda: positions.resumed(STREAM, 8, 2, True),
        lambda: positions.track("chat:den", 3),
        lambda: positions.forget("chat:den"),
        lambda: positions.forget("chat:den"),
    ):
        change()
        counted.append(positions.changes)
    assert counted == [0, 1, 1, 2, 3, 4, 5, 5]
