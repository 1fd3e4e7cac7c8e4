"""Invocation: one request is given to its handler, and gets a result.

Guarantees:

* A handler runs within the watchdog and within a span of its request's trace. An error of the domain
  (:class:`~towpath.protocol.errors.TowpathError`) is a result; every other error leaves this module.
* A request that may crash or hang the program runs in a forked copy of the process first
  (:mod:`towpath.servicekit.handling.crash_probe`). That is what the broker delivers again, and for
  :data:`SUSPICION` seconds each request whose action has crashed or hung.
"""

import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from time import monotonic, perf_counter
from typing import Any, Final

import msgspec

from towpath.protocol.envelope import make_error, write
from towpath.protocol.errors import ErrorCode, TowpathError
from towpath.protocol.messages import NO_JSON
from towpath.servicekit.handling.crash_probe import End, run_crash_probe
from towpath.servicekit.handling.outcome import Outcome, answer_data, outgoing
from towpath.servicekit.handling.requests import Request
from towpath.servicekit.handling.result import Result
from towpath.servicekit.handling.watchdog import Overdue
from towpath.servicekit.runtime import conventions
from towpath.servicekit.runtime.error_text import without_frames
from towpath.servicekit.runtime.telemetry import Labelled, Telemetry
from towpath.servicekit.runtime.trace_context import trace_id
from towpath.servicekit.storage.stored_outcome import StoredOutcome
from towpath.servicekit.storage.streams import Replay

#: Seconds that an action runs in a crash probe first after one of its requests crashed or hung.
SUSPICION: Final = 600.0
_NO_SPAN: Final[AbstractContextManager[str | None]] = nullcontext()


class Poison(Exception):
    """A request that must not be handled in this process: it crashes or hangs the program.

    Attributes:
        reason: The value of ``x-reason``.
    """

    def __init__(self, reason: End, how: str, request: Request) -> None:
        super().__init__(how)
        self.reason = reason
        self.request = request


class Invocation:
    """Runs handlers.

    Args:
        watchdog: Entered around each handler; it may raise :class:`~towpath.servicekit.handling.watchdog.Overdue`
            inside.
        time_limit: Seconds that a handler may take in a crash probe.
    """

    def __init__(
        self, watchdog: AbstractContextManager[None], time_limit: float, telemetry: Telemetry
    ) -> None:
        self._watchdog = watchdog
        self._time_limit = time_limit
        self._telemetry = telemetry
        self._suspected_until: dict[str, float] = {}
        # By declared action: only those have handlers.
        self._seconds = Labelled(
            lambda action: telemetry.histogram("handler", "Time of one handler", {"action": action})
        )
        self._refused = {
            code: telemetry.counter(
                "requests_refused", "Requests answered with an error, by its code", {"code": code.value}
            )
            for code in ErrorCode
        }

    def run(self, request: Request, unit: Any) -> Result:
        """Run the handler of ``request`` on a loaded unit of work.

        Raises:
            Poison: It hung.
        """
        envelope, trace = request.envelope, request.traceparent
        with self._span(request) as span:
            trace = span or trace
            started = perf_counter()
            try:
                try:
                    with self._watchdog:
                        outcome, stored = _handle(request, unit, trace)
                finally:
                    self._seconds[envelope.action].record(perf_counter() - started)
            except TowpathError as error:
                # The domain refuses before any change, so the unit of work goes on with the other requests.
                return self.refuse(request, error, trace)
            except Overdue as overdue:
                # Not a refusal: the handler was interrupted anywhere, and the unit of work may be half changed. The
                # transaction is rolled back, and the request is parked.
                raise Poison(End.HUNG, str(overdue), request) from overdue
        return Result(request, stored, trace, outcome)

    def _span(self, request: Request) -> AbstractContextManager[str | None]:
        if not self._telemetry.is_recorded(request.traceparent):
            return _NO_SPAN
        return self._telemetry.span(
            conventions.handle(request.envelope.action),
            request.traceparent,
            conventions.INTERNAL,
            attributes={conventions.MESSAGE_ID: request.envelope.msg_id},
        )

    def refuse(self, request: Request, error: TowpathError, trace: str = "") -> Result:
        """The result of a request that is not run, or whose handler refused it: a command is answered."""
        trace = trace or request.traceparent
        if request.session is None:
            return Result(request, StoredOutcome(), trace, error=error)
        without_frames(error)
        self._refused[error.code].add(1)
        answer = make_error(error, correlation_id=request.envelope.msg_id, trace_id=trace_id(trace))
        return Result(request, StoredOutcome(answer=msgspec.Raw(answer.to_json())), trace, error=error)

    async def probe(self, requests: Sequence[Request], unit: Any) -> None:
        """Run ``requests`` in a copy of this process, all of them, if one of them is suspect.

        All, because a handler sees what those before it have changed in the unit of work.

        Raises:
            Poison: A request ended the copy.
        """
        # The usual case. A fork takes milliseconds for each unit, and is paid for suspects only (ADR 10).
        if not self._has_suspects(requests):
            return
        steps = [partial(_handle, request, unit, request.traceparent) for request in requests]
        if (failed := await run_crash_probe(steps, time_limit=self._time_limit)) is not None:
            raise Poison(failed.end, failed.how, requests[failed.step])

    def suspect(self, action: str) -> None:
        """Run each request of ``action`` in a crash probe first, for a while."""
        self._suspected_until[action] = monotonic() + SUSPICION

    def _has_suspects(self, requests: Sequence[Request]) -> bool:
        delivery = None
        for request in requests:
            # Once per delivery, which has many requests when it matters.
            if request.delivery is not delivery:
                delivery = request.delivery
                if request.is_redelivery:
                    return True
        if not self._suspected_until:
            return False
        now = monotonic()
        return any(now < self._suspected_until.get(request.envelope.action, 0.0) for request in requests)


def answer_json(request: Request, outcome: Outcome, replays: Mapping[str, Replay], trace: str) -> msgspec.Raw:
    """The answer of a command as an envelope; every command gets one. An event has none."""
    answer = outcome.answer(replays) if callable(outcome.answer) else outcome.answer
    if request.session is None:
        return NO_JSON
    return msgspec.Raw(
        write(
            f"{request.envelope.action}.ok",
            {} if answer is None else answer_data(answer),
            correlation_id=request.envelope.msg_id,
            traceparent=trace,
        )
    )


def _handle(request: Request, unit: Any, trace: str) -> tuple[Outcome, StoredOutcome]:
    """The handler's outcome, and its stored form as far as it is known before the replay."""
    outcome: Any
    if request.session is None:
        outcome = request.handler.run(request.payload, unit)
    else:
        outcome = request.handler.run(request.payload, request.session, unit)
    if not isinstance(outcome, Outcome):
        # Closed, or Python warns about a coroutine that was never awaited, far from its cause.
        if inspect.iscoroutine(outcome):
            outcome.close()
        raise TypeError(
            f"the handler of {request.envelope.action} returned {type(outcome).__name__}, and not an Outcome"
        )
    if outcome.effects and not (request.handler.changes or request.handler.idempotent):
        raise TypeError(
            f"the handler of {request.envelope.action} declares an effect, and has changes=False: only a change is "
            f"committed"
        )
    # A function as the answer needs the replay, which is read after the commit: until then the answer is empty.
    waits_for_replay = callable(outcome.answer) and bool(outcome.replay)
    stored = StoredOutcome(
        answer=NO_JSON if waits_for_replay else answer_json(request, outcome, {}, trace),
        outgoing=outgoing(outcome),
        subscribe=list(outcome.subscribe if outcome.groups is None else outcome.groups),
        unsubscribe=list(outcome.unsubscribe),
        replay=dict(outcome.replay),
        complete=outcome.groups is not None,
        leaves=list({leave.token: leave for push in outcome.pushes for leave in push.leaves}.values()),
    )
    return outcome, stored
