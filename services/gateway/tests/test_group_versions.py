"""The groups of a connection, whatever the order in which a service's changes arrive."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from towpath.gateway.sessions.group_versions import GroupVersions

GROUPS: Final = ("a", "b", "c")
PLENTY: Final = 100


@dataclass(frozen=True)
class Said:
    """What a service said as of a number: a change of one group, or all groups there are."""

    as_of: int
    group: str | None
    groups: frozenset[str]

    def tell(self, order: GroupVersions) -> None:
        """As a gateway does with the directed item of it."""
        if self.group is None:
            order.subscribe(sorted(self.groups), self.as_of, is_current=True, free=PLENTY)
            order.complete(self.as_of, free=PLENTY)
        elif self.group in self.groups:
            order.subscribe([self.group], self.as_of, is_current=False, free=PLENTY)
        else:
            order.unsubscribe([self.group], self.as_of, most=PLENTY)


@st.composite
def stories(draw: st.DrawFn) -> tuple[list[Said], frozenset[str]]:
    """All that a service said, in its own order, and the groups at the end."""
    said: list[Said] = []
    groups: frozenset[str] = frozenset()
    for as_of, group in enumerate(draw(st.lists(st.sampled_from([None, *GROUPS]), max_size=12)), start=1):
        if group is not None:
            groups = groups ^ {group}
        said.append(Said(as_of, group, groups))
    said.append(Said(len(said), None, groups))  # as a session is greeted, at some time
    return said, groups


@given(stories(), st.randoms(use_true_random=False))
def test_what_was_said_leads_to_the_same_groups_in_any_order_and_said_twice(
    story: tuple[Sequence[Said], frozenset[str]], chance: Random
) -> None:
    said, groups = story
    arriving = [*said, *said]
    chance.shuffle(arriving)
    order = GroupVersions()
    for item in arriving:
        item.tell(order)
    assert set(order.groups) == groups


@given(stories(), st.integers(0, 20), st.randoms(use_true_random=False))
def test_what_was_said_before_a_complete_list_may_be_lost_or_late(
    story: tuple[Sequence[Said], frozenset[str]], lost: int, chance: Random
) -> None:
    said, groups = story
    lists = [n for n, item in enumerate(said) if item.group is None]
    kept_from = lists[lost % len(lists)]
    arriving = [item for n, item in enumerate(said) if n >= kept_from or chance.random() < 0.5]
    chance.shuffle(arriving)
    order = GroupVersions()
    for item in arriving:
        item.tell(order)
    assert set(order.groups) == groups


def test_a_subscription_from_before_the_inbox_waits_for_the_list_and_counts_if_it_is_newer() -> None:
    order = GroupVersions()
    assert order.subscribe(["left", "entered"], 5, is_current=False, free=PLENTY) == ([], 0)
    assert not order.groups
    order.subscribe(["entered"], 8, is_current=False, free=PLENTY)
    assert order.complete(6, free=PLENTY) == ([], ["entered"], 0)
    assert set(order.groups) == {"entered"}


def test_a_subscription_that_answers_a_command_of_this_inbox_counts_at_once() -> None:
    order = GroupVersions()
    assert order.subscribe(["a"], 5, is_current=True, free=PLENTY) == (["a"], 0)


def test_no_more_groups_are_entered_than_there_is_room_for_and_no_more_are_remembered() -> None:
    order = GroupVersions()
    many = [f"g{n}" for n in range(50)]
    entered, refused = order.subscribe(many, 1, is_current=True, free=10)
    assert (len(entered), refused) == (10, 40)
    order.unsubscribe(many, 2, most=10)
    assert not order.groups
    assert len(order._left) == 10
    waiting = GroupVersions()
    waiting.subscribe(many, 1, is_current=False, free=10)
    assert len(waiting.complete(0, free=PLENTY)[1]) == 10


def test_an_older_complete_list_changes_nothing() -> None:
    order = GroupVersions()
    order.subscribe(["a"], 7, is_current=True, free=PLENTY)
    order.complete(7, free=PLENTY)
    assert order.complete(6, free=PLENTY) == ([], [], 0)
    assert order.subscribe(["b"], 6, is_current=True, free=PLENTY) == ([], 0)
    assert set(order.groups) == {"a"}
