"""Docstrings of public names: their examples run, and each error tree is complete."""

import doctest
import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

from towpath import client, servicekit
from towpath.client import errors as client_errors
from towpath.protocol import envelope, errors, messages
from towpath.protocol.errors import ErrorCode, TowpathError

ROOT: Final = Path(__file__).parent.parent
SOURCES: Final = sorted(ROOT.glob("*/*/src/towpath/**/*.py")) + sorted(ROOT.glob("tools/src/towpath/**/*.py"))


def module_name(file: Path) -> str:
    """``…/src/towpath/chat/app.py`` as ``towpath.chat.app``."""
    parts = file.with_suffix("").parts
    start = len(parts) - 1 - parts[::-1].index("src")
    return ".".join(parts[start + 1 :]).removesuffix(".__init__")


#: Found by text, so that no module is imported before its test runs.
WITH_EXAMPLES: Final = [module_name(file) for file in SOURCES if ">>> " in file.read_text()]

#: Type aliases and protocols of the kit without an example of their own, and the class that only the kit creates.
WITHOUT_EXAMPLE: Final = {
    "Connect",
    "Database",
    "DatabaseUrl",
    "EntryId",
    "Fields",
    "Handlers",
    "Port",
    "Request",
    "Seconds",
}


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_a_module_give_the_results_that_they_show(name: str) -> None:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, attempted = doctest.testmod(import_module(name), optionflags=flags)
    assert attempted > 0
    assert failed == 0, "see the captured output"


def examples_of(value: Any) -> list[doctest.Example]:
    """The examples in the docstring of ``value``, or, of a class, in those of its methods."""
    return [example for found in doctest.DocTestFinder().find(value, "value") for example in found.examples]


@pytest.mark.parametrize("name", sorted(set(servicekit.__all__) - WITHOUT_EXAMPLE))
def test_each_public_name_of_the_kit_has_an_example_or_a_place_in_the_error_tree(name: str) -> None:
    value = getattr(servicekit, name)
    if isinstance(value, type) and issubclass(value, Exception):
        assert name in tree_of(servicekit)
    else:
        assert examples_of(value), f"{name} has no example"


@pytest.mark.parametrize("name", sorted(set(client.__all__) - {"Envelope", "TowpathError"}))
def test_each_public_name_of_the_client_has_an_example(name: str) -> None:
    assert examples_of(getattr(client, name)), f"{name} has no example"


@pytest.mark.parametrize(
    "made", [envelope.make, envelope.make_error, envelope.parse, envelope.Envelope.answer]
)
def test_each_maker_of_envelopes_has_an_example(made: Any) -> None:
    assert examples_of(made)


# Error trees


def tree_of(module: ModuleType) -> dict[str, str | None]:
    """The error tree in a module's docstring: each name, and the name above it."""
    found: dict[str, str | None] = {}
    above: list[str] = []
    for line in (module.__doc__ or "").splitlines():
        if (branch := re.match(r" {4}((?:[│ ]   )*[├└]── )?([A-Z]\w+)(?: |$)", line)) is None:
            continue
        depth = len(branch[1] or "") // 4
        above[depth:] = [branch[2]]
        found[branch[2]] = above[depth - 1] if depth else None
    return found


def errors_below(*classes: type[BaseException], package: str) -> dict[str, type[BaseException]]:
    """``classes`` and all their subclasses that ``package`` defines, by name."""
    found: dict[str, type[BaseException]] = {}
    waiting = list(classes)
    while waiting:
        one = waiting.pop()
        if one.__module__.startswith(f"{package}."):
            found[one.__name__] = one
        waiting += one.__subclasses__()
    return found


def is_below(name: str, above: str | None, known: Mapping[str, type[BaseException]]) -> bool:
    return above is None or known[above] in known[name].__bases__


def test_the_tree_of_the_protocols_errors_is_complete() -> None:
    tree, known = tree_of(errors), errors_below(TowpathError, package="towpath.protocol")
    assert messages.TooManyItems in known.values()
    assert set(tree) == set(known)
    assert [name for name, above in tree.items() if not is_below(name, above, known)] == []


def test_each_error_of_the_protocol_is_listed_with_its_code() -> None:
    for name, error in errors_below(TowpathError, package="towpath.protocol").items():
        assert issubclass(error, TowpathError)
        line = next(
            line
            for line in (errors.__doc__ or "").splitlines()
            if re.search(rf"── {name} |^    {name} ", line)
        )
        assert line.split(name)[1].split()[0] == f"{error.code}:", line
        assert ("(*)" in line) == error.code.retryable, line


def test_the_tree_of_the_kits_errors_is_complete() -> None:
    public = {
        name: value
        for name in servicekit.__all__
        if isinstance(value := getattr(servicekit, name), type) and issubclass(value, Exception)
    }
    tree = tree_of(servicekit)
    assert set(tree) == set(public)
    assert [name for name, above in tree.items() if not is_below(name, above, public)] == []
    # LaneFull is caught where messages are queued; the others are for operators, not for service writers.
    internal = {"LaneFull", "BadEntryPoint", "RefusedLogin"}
    known = errors_below(servicekit.CannotStart, servicekit.BrokerError, package="towpath.servicekit")
    assert set(known) - internal <= set(tree)


def test_the_list_of_the_clients_error_codes_is_complete() -> None:
    listed = {
        found[1]: found[2] is not None
        for line in (client_errors.__doc__ or "").splitlines()
        if (found := re.match(r" {4}[│ ]   [├└]── (\w+)( \(\*\))? +\S", line))
    }
    raised = {
        code
        for file in (ROOT / "clients/python/src").rglob("*.py")
        for code in re.findall(r"TowpathError\(\s*\"(\w+)\"", file.read_text())
    }
    assert raised, "the client raises errors"
    assert set(listed) == raised | {code.value for code in ErrorCode}
    assert [code for code in ErrorCode if listed[code.value] != code.retryable] == []
