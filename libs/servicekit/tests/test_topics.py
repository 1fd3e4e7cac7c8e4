"""Topic matching, compared with the sentence that defines it."""

from hypothesis import given
from hypothesis import strategies as st

from towpath.servicekit.broker.topics import CACHED_KEYS, TopicTable, split

words = st.sampled_from(["a", "b", "c", ""])
keys = st.lists(words | st.sampled_from(["*", "#"]), max_size=5).map(".".join)
patterns = st.lists(words | st.sampled_from(["*", "#"]), max_size=5).map(".".join)
bindings = st.lists(st.tuples(patterns, st.integers(0, 5)), max_size=12)


def matches(pattern: list[str], key: list[str]) -> bool:
    """``*`` is one word, ``#`` is none or more, anything else is itself."""
    if not pattern:
        return not key
    if pattern[0] == "#":
        return matches(pattern[1:], key) or (bool(key) and matches(pattern, key[1:]))
    return bool(key) and pattern[0] in ("*", key[0]) and matches(pattern[1:], key[1:])


def expected(bindings: list[tuple[str, int]], key: str) -> list[int]:
    reached = [target for pattern, target in bindings if matches(split(pattern), split(key))]
    return list(dict.fromkeys(reached))


def a_table(bindings: list[tuple[str, int]]) -> TopicTable[int]:
    table: TopicTable[int] = TopicTable()
    for pattern, target in bindings:
        table.bind(pattern, target)
    return table


@given(bindings, st.lists(keys, min_size=1, max_size=5))
def test_a_key_reaches_every_target_with_a_matching_pattern_once_in_the_order_bound(
    bindings: list[tuple[str, int]], keys: list[str]
) -> None:
    table = a_table(bindings)
    for key in [*keys, *keys]:  # the second time from the cache
        assert list(table.find(key)) == expected(bindings, key)


@given(bindings, bindings, st.data())
def test_an_unbound_target_is_no_longer_reached(
    kept: list[tuple[str, int]], dropped: list[tuple[str, int]], data: st.DataObject
) -> None:
    table = a_table([*kept, *dropped])
    key = data.draw(keys)
    table.find(key)
    for pattern, target in dropped:
        table.unbind(pattern, target)
    left = [binding for binding in kept if binding not in dropped]
    assert list(table.find(key)) == expected(left, key)


@given(bindings)
def test_a_table_without_bindings_holds_nothing(bindings: list[tuple[str, int]]) -> None:
    table = a_table(bindings)
    for pattern, target in bindings:
        table.unbind(pattern, target)
    assert not table._root.branches


def test_words_between_dots_may_be_empty_but_an_empty_key_has_none() -> None:
    table = a_table([("#", 1), ("*", 2), ("*.*", 3)])
    assert table.find("") == (1,)
    assert table.find("a") == (1, 2)
    assert table.find(".") == (1, 3)


def test_unbinding_a_missing_binding_changes_nothing() -> None:
    table = a_table([("a.b", 1)])
    table.unbind("a.b", 2)
    table.unbind("a.b.c", 1)
    table.unbind("a", 1)
    assert table.find("a.b") == (1,)


def test_a_pattern_of_many_wildcards_costs_no_more_than_its_words() -> None:
    table = a_table([(".".join(["#", "a"] * 60), 1)])
    assert table.find(".".join(["a"] * 80)) == (1,)
    assert table.find(".".join(["a"] * 80 + ["b"])) == ()


def test_the_cache_of_keys_is_bounded() -> None:
    table = a_table([("user.*", 1)])
    for n in range(CACHED_KEYS + 100):
        assert table.find(f"user.{n}") == (1,)
    assert len(table._found) <= CACHED_KEYS
