"""Spelling: finds ``TOWPATH_*`` variables of the environment that are misspelt settings.

Programs that run together often share one environment, so the settings of all programs are known here, not only
those of the running program. A variable that is spelled nearly like one of them is treated as an error.
``make docs`` writes the names, ``known_settings.txt``, from the settings models; a test compares them.
"""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from importlib.resources import files
from typing import Final

PREFIX: Final = "TOWPATH_"

#: Similarity of two names that mean the same setting: ``AMQP_URI`` and ``AMQP_URL`` have 0.875.
_NEAR: Final = 0.85
_ALIKE: Final = 0.6
#: Variables that Kubernetes and Docker set for services whose names begin with "towpath-":
#: https://kubernetes.io/docs/tutorials/services/connect-applications-service/#environment-variables
_SERVICE_LINK: Final = re.compile(r"TOWPATH_\w+_(SERVICE_HOST|SERVICE_PORT\w*|PORT(_\d+_(TCP|UDP)\w*)?)")


def unknown(
    environment: Mapping[str, str], own: Collection[str] = ()
) -> Iterator[tuple[str, str | None, bool]]:
    """Variables that are not a setting of any program.

    Args:
        own: Fields of the settings model of the program that runs.

    Yields:
        Name, the most similar setting (if any), and whether it is similar enough to be a misspelling.
    """
    known = known_settings() | {(PREFIX + name).upper() for name in own}
    for name in sorted(environment):
        written = name.upper()
        if not written.startswith(PREFIX) or written in known or _SERVICE_LINK.fullmatch(written):
            continue
        nearest = _nearest(written, known)
        yield name, nearest, nearest is not None and _likeness(written, nearest) >= _NEAR


def known_settings() -> frozenset[str]:
    """The names of all settings; read when a program starts, not when a module is imported."""
    return frozenset(files(__package__).joinpath("known_settings.txt").read_text(encoding="ascii").split())


def _nearest(name: str, known: Collection[str]) -> str | None:
    tails = {one.removeprefix(PREFIX): one for one in known}
    found = difflib.get_close_matches(name.removeprefix(PREFIX), tails, n=1, cutoff=_ALIKE)
    return tails[found[0]] if found else None


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one.removeprefix(PREFIX), other.removeprefix(PREFIX)).ratio()
