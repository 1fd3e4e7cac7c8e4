"""A judge, and the outcome of its program."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from judges.needs import Need


@dataclass(frozen=True, slots=True)
class Judge:
    """One suite, and the part of Towpath that it judges.

    Attributes:
        name: Of its list of expected deviations.
        judged: The suite and the part, for the table.
        source: Where the suite comes from; CI runs those of a package registry.
        needs: Programs and files that it needs on this machine.
        command: Its program and arguments, run in the root of the checkout.
        seconds: Its time limit.
        toolchain: A compiler that nothing else here needs; CI runs the judge where it is installed.
    """

    name: str
    judged: str
    source: Literal["registry", "clone"]
    needs: tuple[Need, ...]
    command: tuple[str, ...]
    seconds: float
    toolchain: str | None = None

    @property
    def lacks_toolchain(self) -> bool:
        """Whether its compiler is not on PATH."""
        return self.toolchain is not None and shutil.which(self.toolchain) is None


@dataclass(slots=True)
class Outcome:
    """The result of one judge's program.

    Attributes:
        cases: Outcome by case; ``None`` if the program did not run to its end.
        problems: Outcomes that were not as expected.
        seconds: How long it ran.
    """

    cases: dict[str, str] | None = None
    problems: Sequence[str] = ()
    seconds: float = 0.0
