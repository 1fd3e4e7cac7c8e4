"""Group versions: the groups of a connection do not depend on the order in which changes arrive."""

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
class Change:
    """A change of one group that a service numbered, or the complete list of all groups as of a number."""

    as_of: int
    group: str | None
    groups: frozenset[str]

    def apply(self, versions: GroupVersions) -> None:
        """Apply it as a gateway does."""
        if self.group is None:
            versions.subscribe(sorted(self.groups), self.as_of, is_current=True, free=PLENTY)
            versions.complete(self.as_of, free=PLENTY)
        elif self.group in self.groups:
            versions.subscribe([self.group], self.as_of, is_current=False, free=PLENTY)
        else:
            versions.unsubscribe([self.group], self.as_of, most=PLENTY)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Change], frozenset[str]]:
    """The changes of a service in its order, and the groups at the end."""
    changes: list[Change] = []
    groups: frozenset[str] = frozenset()
    for as_of, group in enumerate(draw(st.lists(st.sampled_from([None, *GROUPS]), max_size=12)), start=1):
        if group is not None:
            groups = groups ^ {group}
        changes.append(Change(as_of, group, groups))
    changes.append(
        Change(len(changes), None, groups)
    )  # The answer to session.started, which comes at some time.
    return changes, groups


@given(histories(), st.randoms(use_true_random=False))
def test_changes_lead_to_the_same_groups_in_any_order_and_when_repeated(
    history: tuple[Sequence[Change], frozenset[str]], chance: Random
) -> None:
    changes, groups = history
    arriving = [*changes, *changes]
    chance.shuffle(arriving)
    versions = GroupVersions()
    for change in arriving:
        change.apply(versions)
    assert set(versions.groups) == groups


@given(histories(), st.integers(0, 20), st.randoms(use_true_random=False))
def test_changes_before_a_complete_list_may_be_lost_or_late(
    history: tuple[Sequence[Change], frozenset[str]], lost: int, chance: Random
) -> None:
    changes, groups = history
    lists = [n for n, change in enumerate(changes) if change.group is None]
    kept_from = lists[lost % len(lists)]
    arriving = [change for n, change in enumerate(changes) if n >= kept_from or chance.random() < 0.5]
    chance.shuffle(arriving)
    versions = GroupVersions()
    for change in arriving:
        change.apply(versions)
    assert set(versions.groups) == groups


def test_a_subscription_from_an_older_inbox_waits_for_the_list_and_applies_if_it_is_newer() -> None:
    versions = GroupVersions()
    assert versions.subscribe(["left", "entered"], 5, is_current=False, free=PLENTY) == ([], 0)
    assert not versions.groups
    versions.subscribe(["entered"], 8, is_current=False, free=PLENTY)
    assert versions.complete(6, free=PLENTY) == ([], ["entered"], 0)
    assert set(versions.groups) == {"entered"}


def test_a_subscription_that_answers_a_command_of_this_inbox_applies_at_once() -> None:
    versions = GroupVersions()
    assert versions.subscribe(["a"], 5, is_current=True, free=PLENTY) == (["a"], 0)


def test_the_groups_entered_and_the_groups_remembered_are_bounded() -> None:
    versions = GroupVersions()
    many = [f"g{n}" for n in range(50)]
    entered, refused = versions.subscribe(many, 1, is_current=True, free=10)
    assert (len(entered), refused) == (10, 40)
    versions.unsubscribe(many, 2, most=10)
    assert not versions.groups
    assert len(versions._left) == 10
    waiting = GroupVersions()
    waiting.subscribe(many, 1, is_current=False, free=10)
    assert len(waiting.complete(0, free=PLENTY)[1]) == 10


def test_an_older_complete_list_changes_nothing() -> None:
    versions = GroupVersions()
    versions.subscribe(["a"], 7, is_current=True, free=PLENTY)
    versions.complete(7, free=PLENTY)
    assert versions.complete(6, free=PLENTY) == ([], [], 0)
    assert versions.subscribe(["b"], 6, is_current=True, free=PLENTY) == ([], 0)
    assert set(versions.groups) == {"a"}
