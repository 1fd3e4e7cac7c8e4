"""Answers to the requests of one domain, counted, with the time from the request's frame to its answer."""

from typing import Self

from towpath.servicekit.runtime.telemetry import Counter, Distribution, Telemetry


class Answers:
    """The metrics of one domain; made with :meth:`of`."""

    __slots__ = ("_delay", "_errors", "_ok")

    def __init__(self, delay: Distribution, ok: Counter, errors: Counter) -> None:
        self._delay = delay
        self._ok = ok
        self._errors = errors

    @classmethod
    def of(cls, domain: str, telemetry: Telemetry) -> Self:
        """The metrics of ``domain``, the first word of an action."""
        ok, errors = (
            telemetry.counter(
                "requests_answered", "Requests answered by a service", {"domain": domain, "outcome": outcome}
            )
            for outcome in ("ok", "error")
        )
        delay = telemetry.histogram(
            "request_delay",
            "Time from a request's frame until its answer is handed to the socket",
            {"domain": domain},
        )
        return cls(delay, ok, errors)

    def record(self, seconds: float, *, is_error: bool) -> None:
        """Count an answer that came after ``seconds``."""
        self._delay.record(seconds)
        (self._errors if is_error else self._ok).add(1)
