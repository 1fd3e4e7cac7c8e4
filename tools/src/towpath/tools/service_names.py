"""Names for a new service: one word, for its package, its domain, its queues and its account on RabbitMQ."""

import difflib
import keyword
import re
import sys
from collections.abc import Collection, Mapping
from typing import Final

from towpath.protocol.names import shown
from towpath.servicekit.handling.checks import RESERVED
from towpath.tools.trouble import Trouble

#: The longest name: tables of the kit begin with it, and PostgreSQL cuts names at 63 bytes.
#: https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS
LETTERS_MAX: Final = 24
_FORM: Final = re.compile(rf"[a-z][a-z0-9]{{1,{LETTERS_MAX - 1}}}")
#: Words of the wire contract, of queues and accounts, and of Towpath's own packages.
_OURS: Final = frozenset(
    {
        *(
            "amq",
            "backend",
            "client",
            "dead",
            "events",
            "everyone",
            "gateway",
            "group",
            "ops",
            "probe",
            "proof",
        ),
        *("protocol", "publisher", "push", "retry", "servicekit", "testkit", "tools", "towpath", "user"),
    }
)


class BadName(Trouble):
    """A service cannot have this name."""

    status = 2

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"a service cannot be named {shown(name[:70])!a}: {problem}")


def check_name(name: str, taken: Mapping[str, str], *, alone: bool) -> str:
    """Return ``name``, if a new service can have it.

    Args:
        taken: Names and domains of other services, and whose each is.
        alone: Whether its package is a package by itself, not one of the namespace ``towpath``.

    Raises:
        BadName
    """
    if not _FORM.fullmatch(name):
        raise BadName(name, _problem_of_form(name))
    if name in RESERVED:
        raise BadName(name, "gateways answer this domain themselves; take another word")
    if name in _OURS:
        raise BadName(name, "Towpath uses this word itself; take another one")
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise BadName(name, "it is a keyword of Python; take another word")
    if alone and name in sys.stdlib_module_names:
        raise BadName(name, "Python has a module of this name; take another word")
    if name in taken:
        raise BadName(name, f"{taken[name]}; take another word")
    return name


def _problem_of_form(name: str) -> str:
    rule = f"2 to {LETTERS_MAX} small letters and digits, a letter first"
    if len(name) > LETTERS_MAX:
        return f"it has {len(name)} letters; {rule}"
    nearest = re.sub(r"[^a-z0-9]", "", name.lower()).lstrip("0123456789")
    return f"{rule}, such as {nearest}" if _FORM.fullmatch(nearest) else rule


def nearest(name: str, known: Collection[str]) -> str:
    """A question that names the most similar of ``known``; empty if none is similar."""
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""
