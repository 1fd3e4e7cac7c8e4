"""Topic routing: the targets of a routing key, where ``*`` matches one word and ``#`` any number of words.

Guarantees: a target is found once, however many of its patterns match, earlier bindings first; the cost of a look-up
depends on the words of the key and the patterns that share them, not on the number of bindings; memory is bounded by
the bindings, the cache of recent keys by :data:`CACHED_KEYS`. Keys are split into words as RabbitMQ does it: the
empty key has no word, ``"a."`` has two. https://www.rabbitmq.com/tutorials/amqp-concepts#exchange-topic
"""

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

#: Number of keys whose targets are cached until a binding changes.
CACHED_KEYS: Final = 8192

Target = TypeVar("Target", bound=Hashable)


class _Node(Generic[Target]):
    """One word of the patterns; the path from the root to a node with targets is a pattern."""

    __slots__ = ("branches", "repeats", "targets")

    def __init__(self, *, repeats: bool = False) -> None:
        self.branches: dict[str, _Node[Target]] = {}
        self.targets: dict[Target, int] = {}  # Target → number of its binding: earlier ones come first.
        self.repeats = repeats  # This node is a `#`.


class TopicTable(Generic[Target]):
    """The bindings of one topic exchange, as a trie of words."""

    def __init__(self) -> None:
        self._root: _Node[Target] = _Node()
        self._found: dict[str, tuple[Target, ...]] = {}
        self._bound = 0

    def bind(self, pattern: str, target: Target) -> None:
        """Route keys that match ``pattern`` to ``target``. Idempotent."""
        node = self._root
        for word in split(pattern):
            node = node.branches.setdefault(word, _Node(repeats=word == "#"))
        if target not in node.targets:
            self._bound += 1
            node.targets[target] = self._bound
            self._found.clear()

    def unbind(self, pattern: str, target: Target) -> None:
        """Undo :meth:`bind`; unknown bindings are ignored."""
        path = [self._root]
        words = split(pattern)
        for word in words:
            node = path[-1].branches.get(word)
            if node is None:
                return
            path.append(node)
        path[-1].targets.pop(target, None)
        self._found.clear()
        for parent, word, node in zip(reversed(path[:-1]), reversed(words), reversed(path), strict=False):
            if node.targets or node.branches:
                return
            del parent.branches[word]

    def find(self, key: str) -> tuple[Target, ...]:
        """The targets that ``key`` reaches, each once."""
        found = self._found.get(key)
        if found is None:
            if len(self._found) >= CACHED_KEYS:
                self._found.clear()
            found = self._found[key] = self._walk(split(key))
        return found

    def _walk(self, words: list[str]) -> tuple[Target, ...]:
        """Match all patterns at once, word by word: no pattern backtracks, however many ``#`` it has."""
        nodes = _with_repeats({self._root})
        for word in words:
            reached: set[_Node[Target]] = set()
            for node in nodes:
                if node.repeats:
                    reached.add(node)
                for name in (word, "*"):
                    if (branch := node.branches.get(name)) is not None:
                        reached.add(branch)
            nodes = _with_repeats(reached)
        numbers: dict[Target, int] = {}
        for node in nodes:
            for target, number in node.targets.items():
                numbers[target] = min(number, numbers.get(target, number))
        return tuple(sorted(numbers, key=numbers.__getitem__))


def _with_repeats(nodes: set[_Node[Target]]) -> set[_Node[Target]]:
    """``nodes`` and the ``#`` nodes below them, which may match no word at all."""
    for node in list(nodes):
        while (repeat := node.branches.get("#")) is not None and repeat not in nodes:
            nodes.add(repeat)
            node = repeat
    return nodes


def split(key: str) -> list[str]:
    """The words of a routing key or pattern."""
    return key.split(".") if key else []
