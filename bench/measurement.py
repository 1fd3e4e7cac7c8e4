"""One measurement, and what a whole run is made of; both as JSON, so that a later run can be compared."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Self

from bench.histogram import Histogram

#: Of one core. Past it the generator may be the limit: the system can do this much, or more.
MOST_GENERATOR_SHARE: Final = 0.7


@dataclass(frozen=True)
class Measurement:
    """The measurement of one system in one case of a work, in one round.

    Attributes:
        rate: Finished a second; ``None`` where a work is not about that.
        times: Of what finished within the window, in microseconds; ``None`` as above.
        cpu: Role (``gateway``, ``service``, ``broker``, ``generator``) → microseconds of CPU a finished message.
        lost, duplicates, disorder: Messages that never arrived, arrived twice, or arrived out of order.
        refused: Answered with an error.
        cut_off: Connections that the system closed.
        generator_share: The generator's CPU as a share of one core.
        elsewhere: The share of the machine that programs took which have no part in it.
        figures: Further figures of the work, by title and unit: ``{"KiB a connection": 9.6}``.
        failure: Why nothing was measured.
    """

    work: str
    case: str
    system: str
    round: int
    rate: float | None = None
    times: Histogram | None = None
    cpu: dict[str, float] = field(default_factory=dict)
    lost: int = 0
    duplicates: int = 0
    disorder: int = 0
    refused: int = 0
    cut_off: int = 0
    generator_share: float = 0.0
    elsewhere: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)
    failure: str | None = None

    @property
    def at_least(self) -> bool:
        """Whether the generator may have been the limit."""
        return self.generator_share > MOST_GENERATOR_SHARE

    def to_json(self) -> dict[str, Any]:
        """For :meth:`from_json`."""
        return asdict(self) | {"times": None if self.times is None else self.times.to_json()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """From the value of :meth:`to_json`; unknown fields are ignored."""
        known = {name.name for name in fields(cls)}
        kept = {name: value for name, value in values.items() if name in known}
        if kept.get("times") is not None:
            kept["times"] = Histogram.from_json(kept["times"])
        return cls(**kept)


@dataclass(frozen=True)
class Run:
    """Everything that one call of the command has measured.

    Attributes:
        facts: When, on what machine, with which versions: title → text.
        titles: System → what people call it.
        differences: System → what is not equal to the others.
        command: The command of the run.
    """

    command: str
    facts: dict[str, str]
    titles: dict[str, str]
    differences: dict[str, list[str]]
    measurements: list[Measurement]

    def save(self, file: Path) -> None:
        """Write it as JSON, a measurement a line."""
        head = {name: value for name, value in asdict(self).items() if name != "measurements"}
        lines = ",\n".join(json.dumps(one.to_json(), ensure_ascii=False) for one in self.measurements)
        start = json.dumps(head, indent=1, ensure_ascii=False).removesuffix("\n}")
        file.write_text(f'{start},\n "measurements": [\n{lines}\n]}}\n')

    @classmethod
    def load(cls, file: Path) -> Self:
        """A file written by :meth:`save`.

        Raises:
            OSError, ValueError: The file is not there, or is something else.
        """
        content = json.loads(file.read_text())
        try:
            measured = [Measurement.from_json(one) for one in content["measurements"]]
            return cls(
                content["command"], content["facts"], content["titles"], content["differences"], measured
            )
        except (KeyError, TypeError) as error:
            raise ValueError("it holds no results of this version of the benchmark") from error
