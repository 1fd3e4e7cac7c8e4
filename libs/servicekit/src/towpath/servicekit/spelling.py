"""Spelling: which ``TOWPATH_*`` variables of the environment are settings, and which only look like some.

Programs that run beside each other often share one environment, so the settings of all programs are known here, and
not only those of the one that runs. A variable that is spelled nearly like one of them is taken for a mistake.
"""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from towpath.servicekit.known_settings import KNOWN

PREFIX: Final = "TOWPATH_"

#: How alike two names are that mean the same setting: ``AMQP_URI`` and ``AMQP_URL`` are at 0.875.
_NEAR: Final = 0.85
_ALIKE: Final = 0.6
#: What Kubernetes and Docker tell of services whose names begin with "towpath-":
#: https://kubernetes.io/docs/tutorials/services/connect-applications-service/#environment-variables
_SERVICE_LINK: Final = re.compile(r"TOWPATH_\w+_(SERVICE_HOST|SERVICE_PORT\w*|PORT(_\d+_(TCP|UDP)\w*)?)")


def unknown(
    environment: Mapping[str, str], own: Collection[str] = ()
) -> Iterator[tuple[str, str | None, bool]]:
    """Variables that no program knows.

    Args:
        own: Fields of the settings model of the program that runs.

    Yields:
        Name, the setting that is most like it (if any is), and whether it is so near that it must be meant.
    """
    known = KNOWN | {(PREFIX + name).upper() for name in own}
    for name in sorted(environment):
        written = name.upper()
        if not written.startswith(PREFIX) or written in known or _SERVICE_LINK.fullmatch(written):
            continue
        nearest = _nearest(written, known)
        yield name, nearest, nearest is not None and _likeness(written, nearest) >= _NEAR


def _nearest(name: str, known: Collection[str]) -> str | None:
    tails = {one.removeprefix(PREFIX): one for one in known}
    found = difflib.get_close_matches(name.removeprefix(PREFIX), tails, n=1, cutoff=_ALIKE)
    return tails[found[0]] if found else None


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one.removeprefix(PREFIX), other.removeprefix(PREFIX)).ratio()
