"""The verdict on one judge: its outcomes against the list of its expected deviations. Pure.

Guarantees: a deviation that is not listed fails, and so does a listed one that no longer occurs, so that the list is
true on the day of each run; only one that depends on time, and says so, may be absent. A judge that ran fewer cases
than its list says proves less, and fails too.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

#: The outcome of a case that needs no reason.
PASSED: Final = "ok"


@dataclass(frozen=True, slots=True)
class Deviation:
    """Cases whose outcome is not ``ok``, and why that is right.

    Attributes:
        case: The id of a case, or a pattern with ``*``; every case that it matches has the outcome.
        sometimes: It depends on time, such as on the frames that one read holds: the outcome may be ``ok`` as well.
    """

    case: str
    outcome: str
    reason: str
    sometimes: bool = False


@dataclass(frozen=True, slots=True)
class Expected:
    """One file of ``judges/expected``.

    Attributes:
        at_least: Number of cases that the judge runs.
        deviations: A case belongs to the first that matches it.
    """

    at_least: int
    deviations: Sequence[Deviation]

    @classmethod
    def read(cls, path: Path) -> "Expected":
        """Read a list.

        Raises:
            ValueError: It has an entry that is not understood, or that has no reason.
        """
        listed = tomllib.loads(path.read_text())
        deviations = [_deviation(path, entry) for entry in listed.pop("deviation", [])]
        at_least = listed.pop("at_least", None)
        if listed or not isinstance(at_least, int) or at_least < 1:
            raise ValueError(f"{path}: give `at_least`, a number of cases, and `[[deviation]]` entries only")
        return cls(at_least, deviations)

    def of(self, case: str) -> Deviation | None:
        """The deviation that is expected of a case."""
        return next((one for one in self.deviations if fnmatchcase(case, one.case)), None)


def problems(cases: Mapping[str, str], expected: Expected) -> list[str]:
    """The outcomes that are not as expected; empty if the judge is satisfied."""
    found = []
    if len(cases) < expected.at_least:
        found.append(f"ran {len(cases)} cases, not {expected.at_least}")
    matched = set()
    for case, outcome in cases.items():
        deviation = expected.of(case)
        wanted = deviation.outcome if deviation else PASSED
        if deviation:
            matched.add(deviation)
        may_pass = deviation is not None and deviation.sometimes
        if outcome != wanted and not (may_pass and outcome == PASSED):
            found.append(f"{case} is {outcome!r}, expected is {wanted!r}")
    found += [f"{one.case}: no such case was run" for one in expected.deviations if one not in matched]
    return found


def _deviation(path: Path, entry: Mapping[str, Any]) -> Deviation:
    texts = {name: text for name, text in entry.items() if name != "sometimes"}
    if (
        set(texts) != {"case", "outcome", "reason"}
        or not all(isinstance(text, str) and text.strip() for text in texts.values())
        or not isinstance(entry.get("sometimes", False), bool)
    ):
        raise ValueError(
            f"{path}: {dict(entry)}: a deviation has the texts case, outcome and reason; it may have sometimes = true"
        )
    return Deviation(**entry)
