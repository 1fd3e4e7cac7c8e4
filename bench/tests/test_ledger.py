"""Of every number it is known whether it came, once, and in its turn."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from bench.generator.ledger import Ledger


def heard(*numbers: int) -> Ledger:
    ledger = Ledger(10)
    for number in numbers:
        ledger.hear(number)
    return ledger


def test_numbers_in_sequence_are_right() -> None:
    ledger = heard(10, 11, 12)
    assert (ledger.lost(13), ledger.duplicates, ledger.disorder) == (0, 0, 0)


def test_a_missing_number_is_lost_in_between_and_at_the_end() -> None:
    assert heard(10, 12).lost(14) == 2


def test_a_late_number_is_out_of_order_and_not_lost() -> None:
    ledger = heard(10, 12, 11)
    assert (ledger.lost(13), ledger.duplicates, ledger.disorder) == (0, 0, 1)


def test_a_repeated_number_is_a_duplicate_at_any_time() -> None:
    ledger = heard(10, 10, 12, 11, 11, 10)
    assert (ledger.lost(13), ledger.duplicates, ledger.disorder) == (0, 3, 1)


@given(st.sets(st.integers(10, 60)), st.lists(st.integers(10, 60)), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_for_any_order_of_numbers_the_sums_are_right(
    numbers: set[int], again: list[int], chance: random.Random
) -> None:
    repeated = [number for number in again if number in numbers]
    coming = [*numbers, *repeated]
    chance.shuffle(coming)
    ledger = heard(*coming)
    assert ledger.lost(61) == 51 - len(numbers)
    assert ledger.duplicates == len(repeated)
