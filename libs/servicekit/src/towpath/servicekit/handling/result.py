"""Results: one request and what became of it. They live in memory, from its transaction to its ack."""

from dataclasses import dataclass, field

from towpath.protocol.errors import TowpathError
from towpath.protocol.messages import Session
from towpath.servicekit.handling.outcome import Outcome
from towpath.servicekit.handling.requests import Request
from towpath.servicekit.storage.stored_outcome import StoredOutcome


@dataclass(slots=True)
class Result:
    """One request and what became of it.

    Attributes:
        stored: The published part: answer, pushes, events, group changes. Empty for an event that went to a retry
            queue or to the dead queue.
        traceparent: The trace of its handler.
        outcome: The handler's return value; ``None`` if the handler did not run now (a repetition, a refusal).
        error: The refusal: the answer of a command, or the reason to park an event.
        number: The number of its group changes, see :mod:`towpath.servicekit.storage.group_numbers`.
    """

    request: Request
    stored: StoredOutcome
    traceparent: str
    outcome: Outcome | None = None
    error: TowpathError | None = None
    number: int = 0

    @property
    def session(self) -> Session | None:
        """The session of the asking client; ``None`` for an event."""
        return self.request.session

    @property
    def is_final(self) -> bool:
        """Whether the inbox keeps it, so that a repetition gets the same answer.

        A refusal that may pass (``busy``) is not kept: a repetition runs again. Neither is a refused event: an
        operator may replay it from the dead queue, and then it runs.
        """
        if self.error is None:
            return True
        return self.request.session is not None and not self.error.code.retryable


@dataclass(frozen=True, slots=True)
class Failed:
    """A command that failed alone.

    Attributes:
        behind: The later requests of its sequence in the unit, in their order; they were not run.
    """

    request: Request
    error: Exception
    behind: list[Request] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Ran:
    """A unit of work that was run: each of its requests has a result, or is in ``failed``."""

    results: list[Result]
    failed: list[Failed]
