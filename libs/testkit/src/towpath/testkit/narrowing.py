"""``pytest -k WORD`` without the import of files that hold no such test: a first result after 1 s, not 5 s.

A file is left out only when it is known not to match: the expression has no ``not``, and none of its words is in the
file's path, in its text, or in the names that its tests had when it was collected last. The last part is for names
that come from elsewhere, such as a fixture's parameters; a file whose tests are not known yet is collected.

A run without ``-k``, or one that names files, collects all it is asked for.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pytest

_NAMES: Final = "towpath/names"
_WORD: Final = re.compile(r"[\w:+\-.\[\]\\/]+")


class Narrowing:
    """The plugin's part: registered for each run that names no files.

    Args:
        config: Of the run, after the command line was read.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._root = config.rootpath
        cache = config.cache
        assert cache is not None
        self._cache = cache
        self._names: dict[str, str] = cache.get(_NAMES, {})
        self._wanted: list[Path] | None = None
        words = words_of(config.option.keyword)
        if words:
            folders = (self._root / folder for folder in config.getini("testpaths"))
            files = (file for folder in folders for file in folder.rglob("test_*.py"))
            self._wanted = [file for file in files if self._may_match(file, words)]

    @pytest.hookimpl
    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        if self._wanted is None or any(file.is_relative_to(collection_path) for file in self._wanted):
            return None  # others may have a reason to leave it out
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        # First, so that the names of tests which this run leaves out are kept as well.
        names: dict[str, set[str]] = {}
        for item in items:
            file, _, name = item.nodeid.partition("::")
            kept = names.setdefault(file, set())
            kept.update((name, *(mark.name for mark in item.iter_markers()), *item.listextrakeywords()))
        known = self._names | {file: _as_text(kept) for file, kept in names.items()}
        # Names of files that were removed or renamed since are of no use.
        self._cache.set(_NAMES, {file: text for file, text in known.items() if (self._root / file).exists()})

    def _may_match(self, file: Path, words: Iterable[str]) -> bool:
        path = file.relative_to(self._root).as_posix()
        if path not in self._names:
            return True
        known = f"{path}\n{self._names[path]}\n{file.read_text()}".lower()
        return any(word in known for word in words)


def words_of(expression: str) -> list[str]:
    """The words of an expression for ``-k`` one of which each test that matches must have; none if it is not so."""
    words = _WORD.findall(expression.lower())
    return [] if "not" in words else [word for word in words if word not in ("and", "or")]


def _as_text(names: Iterable[str]) -> str:
    return "\n".join(sorted(names)).lower()
