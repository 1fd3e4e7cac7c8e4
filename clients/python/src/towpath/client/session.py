"""The session: what the client knows and decides. Events in, actions out; no sockets, no timers, no randomness.

:meth:`Session.handle` takes one event and returns the actions that follow, in order. Guarantees:

* Every request ends in exactly one ``Resolve`` or ``Reject``.
* Requests leave in the order they were made, again after every reconnect until answered, with the same ``msg_id``.
* Durable pushes are put out in order, each once (see :mod:`towpath.client.positions`).
* A view gets a state and then every later change, each once (see :mod:`towpath.client.views`).
* After the state ``closed`` nothing is put out any more, except the ``Reject`` of a request, or the ``ViewFailed`` of
  a view, that is made then.

The same machine exists in other languages; ``libs/protocol/vectors/session`` says what all of them do.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, assert_never

from towpath.client import actions, events
from towpath.client.actions import Action, StateName
from towpath.client.envelope import Envelope, decode, encode, position_of, whole
from towpath.client.errors import TowpathError, is_number
from towpath.client.reconnect import (
    ABNORMAL,
    FIRST_CEILING_MS,
    SPREAD_MS,
    STEADY_MS,
    advised,
    backoff,
    should_move_on,
)
from towpath.client.requests import Pending, Requests
from towpath.client.resumption import Resumption
from towpath.protocol.close_codes import CloseCode, should_reconnect
from towpath.protocol.envelope import ACCEPTED, ERROR, PING, PONG

_WELCOME_TIME_MS: Final = 10_000
_PONG_TIME_MS: Final = 5_000
_REFRESH_AGAIN_MS: Final = 10_000
_DEFAULT_HEARTBEAT_MS: Final = 25_000
_GOODBYE: Final = 1000


class Session:
    """One client's session over any number of connections.

    Args:
        urls: Addresses of the same system: the first is tried first, the next when one fails.
        id_prefix: Makes the session's own message ids unique.
        positions: The last ``seq`` of each stream, from earlier.
        queue_limit: How many requests may wait for a connection.

    Attributes:
        state: The state for the application.
        last_attempt: How the last connection, or attempt at one, ended; for people.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        id_prefix: str,
        positions: Mapping[str, int] | None = None,
        queue_limit: int = 256,
    ) -> None:
        self.state: StateName = "connecting"
        self.last_attempt: str | None = None
        self._phase: Literal["idle", "token", "socket", "open", "waiting", "closed"] = "idle"
        self._urls = urls
        self._url = 0
        self._id_prefix = id_prefix
        self._ids = 0
        self._token: str | None = None
        self._attempt = 0
        self._not_before: float = 0
        self._closing: Mapping[str, Any] = {}  # the server's goodbye, if it said one
        self._heartbeat: float = _DEFAULT_HEARTBEAT_MS
        self._ever_open = False
        self._opened_at = 0
        self._heard_at = 0
        self._pinged = False
        self._refreshing: str | None = None
        self._timers: set[str] = set()
        self._now = 0
        self._actions: list[Action] = []
        self._resumption = Resumption(positions or {}, self._act, self._ask, lambda: self._now)
        self._views = self._resumption.views
        self._requests = Requests(queue_limit, self._act, self._resumption.opened)

    @property
    def positions(self) -> dict[str, int]:
        """The last ``seq`` of each stream that was put out."""
        return self._resumption.positions.as_dict()

    @property
    def changes(self) -> int:
        """How often :attr:`positions` changed."""
        return self._resumption.positions.changes

    def handle(self, event: events.Event, now: int) -> list[Action]:
        """Take one event and return what is to be done, in order.

        Args:
            event: The event.
            now: Unix milliseconds.
        """
        self._now = now
        self._actions = []
        match event:
            case events.Frame():
                self._frame(event.text)
            case events.Request():
                self._request(event)
            case events.Timer():
                self._timer(event.timer)
            case events.Start():
                self._connect()
            case events.Token(purpose="refresh"):
                self._refresh(event.token)
            case events.Token():
                self._token_for_connect(event.token)
            case events.TokenFailed(purpose="refresh"):
                self._refresh_failed(event.error)
            case events.TokenFailed():
                self._connect_failed(event.error)
            case events.Disconnected():
                self._lost(event)
            case events.Abandon():
                self._requests.reject(event.msg_id, event.error)
            case events.Track():
                self._views.wanted(event.stream)
                self._resumption.track(event.stream, event.seq)
            case events.Forget():
                self._requests.forget(event.stream)
                self._resumption.forget(event.stream)
            case events.Resume():
                self._resume(event.domain)
            case events.OpenView():
                self._open_view(event)
            case events.CloseView():
                self._views.close(event.view)
            case events.ReloadView():
                self._views.reload(event.view)
            case events.Loaded():
                self._views.loaded(event.view, event.seq, event.state)
            case events.LoadFailed():
                self._views.load_failed(event.view, event.error)
            case events.Network():
                self._network()
            case events.Close():
                self._end(TowpathError("closed", "The client was closed."), goodbye=_GOODBYE)
            case _:
                assert_never(event)
        return self._actions

    def _resume(self, domain: str | None) -> None:
        if domain is None:
            self._resumption.all()
        else:
            self._resumption.domain(domain)

    def _open_view(self, event: events.OpenView) -> None:
        if self._phase == "closed":
            error = TowpathError("closed", "The client is closed; connect again.")
            self._act(actions.ViewFailed(event.view, error))
        else:
            self._views.open(event.view, event.stream)

    # Connecting

    def _connect(self) -> None:
        # A second start, or the timer of an attempt that was overtaken, must not open a second connection.
        if self._phase not in ("idle", "waiting"):
            return
        self._phase = "token"
        if self._token is None:
            self._act(actions.FetchToken("connect"))
        else:
            self._token_for_connect(self._token)

    def _token_for_connect(self, token: str) -> None:
        # The application may take its time: the client may be closed by now.
        if self._phase != "token":
            return
        self._token = token
        self._phase = "socket"
        # The goodbye of the last connection says nothing about this one.
        self._closing = {}
        self._act(actions.Connect(self._urls[self._url % len(self._urls)], token))
        # An open socket is not a session yet: a gateway that hangs accepts it, and sends no welcome.
        self._set("welcome", _WELCOME_TIME_MS)

    def _connect_failed(self, error: TowpathError) -> None:
        if self._phase != "token":
            return
        if not error.retryable:
            self._end(error)
            return
        self.last_attempt = error.message
        self._act(actions.Report(error))
        self._retry(None, error.message)

    def _welcome(self, data: dict[str, Any]) -> None:
        if self._phase != "socket":
            return
        heartbeat: Any = data.get("heartbeat_ms")
        self._phase = "open"
        self._ever_open = True
        self._opened_at = self._now
        self._heartbeat = heartbeat if is_number(heartbeat) and heartbeat > 0 else _DEFAULT_HEARTBEAT_MS
        self._cancel("welcome")
        self._set("quiet", 2 * self._heartbeat)
        self._act(actions.Welcome(data))
        self._become("open")
        self._resumption.start()
        self._requests.open(data.get("max_frame_bytes"))

    def _lost(self, how: events.Disconnected) -> None:
        if self._phase not in ("socket", "open"):
            return
        was_open = self._phase == "open"
        verdict = self._verdict(how.code)
        self._quieten()
        if was_open and self._now - self._opened_at >= STEADY_MS:
            self._attempt = 0
        # A refused token looks like any other failed connect to many clients, so a failed connect asks for a new one.
        if not was_open or verdict == CloseCode.TOKEN_EXPIRED:
            self._token = None
        # An address that did not open, or whose replica goes: the next attempt is at the next one, if there is one.
        if not was_open or should_move_on(verdict):
            self._url += 1
        announced = self._closing.get("reason")
        why = how.reason or (isinstance(announced, str) and announced) or "no reason given"
        self.last_attempt = f"{verdict}: {why}" if how.status is None else f"HTTP {how.status}"
        # By the range of the code, so that a new code is obeyed too (protocol.md, "Close codes").
        if should_reconnect(verdict):
            if how.status is not None:
                self._act(actions.Report(_refused(how)))
            self._retry(verdict, how.reason, how.retry_after_ms)
            return
        message = f"The server closed the connection for good ({verdict}: {why})."
        self._end(TowpathError("closed", message, details={"close_code": verdict, "reason": why}))

    def _verdict(self, code: int) -> int:
        """The close code that counts: when the close frame got lost, what ``session.closing`` announced."""
        announced = whole(self._closing.get("code"))
        return announced if code == ABNORMAL and announced is not None else code

    def _retry(self, code: int | None, reason: str, retry_after_ms: float | None = None) -> None:
        self._phase = "waiting"
        self._become("recovering" if self._ever_open else "connecting")
        # The goodbye and a refused handshake may both name a time: the longer one holds.
        advice = max(advised(self._closing.get("retry_after_ms")), advised(retry_after_ms))
        # A replica needs a second or two to restart: a client that is too early must not wait long for the next
        # attempt.
        attempt = self._attempt - 1 if self._ever_open else self._attempt
        wait = backoff(attempt, advice, SPREAD_MS if self._ever_open else FIRST_CEILING_MS)
        self._not_before = self._now + wait.min_ms
        self._attempt += 1
        self._act(actions.Timer("reconnect", *wait))
        self._act(actions.Retry(self._attempt, code, reason))

    def _network(self) -> None:
        """The network may be back, or another one: don't sit out a long wait, don't trust the old connection."""
        if self._phase == "waiting":
            self._attempt = 0
            # The backoff starts again, the server's advice holds all the same.
            self._act(actions.Timer("reconnect", *backoff(0, advised(self._not_before - self._now))))
        elif self._phase == "open" and not self._pinged:
            self._ping()

    def _drop(self, code: int, reason: str) -> None:
        """End the connection from this side, without waiting for a peer that may be gone."""
        if self._phase in ("socket", "open"):
            # Not `code`, which may be 1006: no endpoint may send that (RFC 6455, section 7.4.1).
            self._act(actions.Disconnect(CloseCode.HEARTBEAT_LOST, reason))
            self._lost(events.Disconnected(code, reason))

    def _end(self, error: TowpathError, *, goodbye: int | None = None) -> None:
        if self._phase == "closed":
            return
        if goodbye is not None and self._phase in ("socket", "open"):
            self._act(actions.Disconnect(goodbye, ""))
        self._quieten()
        self._cancel("reconnect")
        self._phase = "closed"
        self._requests.end(error)
        self._views.end(error)
        self._become("closed", error)

    def _quieten(self) -> None:
        """Stop what belongs to one connection."""
        for timer in ("welcome", "quiet", "pong", "refresh"):
            self._cancel(timer)
        self._pinged = False
        self._refreshing = None
        self._requests.hold()
        self._resumption.stop()

    # Frames

    def _frame(self, text: str | bytes) -> None:
        if self._phase not in ("socket", "open"):
            return
        # First: a frame that cannot be read shows a live server, too.
        self._on_received()
        envelope = decode(text)
        if envelope is None:
            excerpt = text[:80] if isinstance(text, str) else f"a binary frame of {len(text)} bytes"
            message = f"The server sent an invalid envelope: {excerpt}"
            self._act(actions.Report(TowpathError("bad_frame", message)))
            return
        correlation_id = envelope.get("correlation_id")
        if isinstance(correlation_id, str) and self._answer(correlation_id, envelope):
            return
        # The gateway could not read the msg_id of a frame (protocol.md, `bad_envelope`), so no request gets it.
        if envelope["action"] == ERROR:
            self._act(actions.Report(TowpathError.from_wire(envelope["data"])))
            return
        self._gateway_message(envelope["action"], envelope["data"])
        position = position_of(envelope)
        if position is not None:
            self._resumption.arrive(*position, envelope)
        else:
            self._act(actions.Push(envelope))

    def _gateway_message(self, action: str, data: dict[str, Any]) -> None:
        """Handle an envelope that the gateway sends unasked."""
        match action:
            case "session.welcome":
                self._welcome(data)
            case "session.expiring":
                self._act(actions.FetchToken("refresh"))
            case "session.closing":
                self._closing = data
            case "session.resync":
                self._resumption.all()

    def _answer(self, correlation_id: str, envelope: Envelope) -> bool:
        """Take answers, late ones too; says whether it was one."""
        if self._resumption.answer(correlation_id, envelope):
            return True
        if self._requests.answer(correlation_id, envelope):
            return True
        action = envelope["action"]
        if correlation_id == self._refreshing and action == ERROR:
            self._refreshing = None
            error = TowpathError.from_wire(envelope["data"])
            self._act(actions.Report(error))
            if error.retryable:
                self._set("refresh", _REFRESH_AGAIN_MS)
        # A late answer, to a request that was abandoned or timed out, must not reach the application as a push.
        return action in (ERROR, ACCEPTED, PONG) or action.endswith(".ok")

    # Heartbeat: any frame shows that the other side lives

    def _on_received(self) -> None:
        self._heard_at = self._now
        if self._pinged:
            self._pinged = False
            self._cancel("pong")
            self._set("quiet", 2 * self._heartbeat)

    def _quiet(self) -> None:
        """Set once per span of silence, not per frame: it looks how long the silence is when it goes off."""
        if self._phase != "open" or self._pinged:
            return
        left = 2 * self._heartbeat - max(0, self._now - self._heard_at)
        if left > 0:
            self._set("quiet", left)
        else:
            self._ping()

    def _ping(self) -> None:
        self._pinged = True
        self._ask(PING, {})
        self._set("pong", _PONG_TIME_MS)

    # Requests and tokens

    def _request(self, request: events.Request) -> None:
        msg_id, stream = request.msg_id, request.stream
        try:
            text = encode(msg_id, self._now, request.action, request.data, request.key, request.ack)
        except ValueError as cause:
            self._refuse(msg_id, "invalid_data", f"JSON cannot hold this data: {cause}", cause)
            return
        if self._phase == "closed":
            self._refuse(msg_id, "closed", "The client is closed; connect again.")
            return
        timed = request.timeout_ms is not None
        self._requests.add(Pending(msg_id, request.action, text, timed, stream))
        # It was rejected at once: the queue is full, or its frame is too large.
        if msg_id not in self._requests:
            return
        if stream is not None:
            self._views.wanted(stream)
            self._resumption.open(stream)
        if request.timeout_ms is not None:
            self._set(f"request:{msg_id}", request.timeout_ms)

    def _refuse(self, msg_id: str, code: str, message: str, cause: Exception | None = None) -> None:
        error = TowpathError(code, message, details={"sent": False}, msg_id=msg_id)
        error.__cause__ = cause
        self._act(actions.Reject(msg_id, error))

    def _refresh(self, token: str) -> None:
        # Also without a connection: the next connect uses it.
        self._token = token
        if self._phase == "open":
            self._refreshing = self._ask("session.refresh", {"token": token})

    def _refresh_failed(self, error: TowpathError) -> None:
        if self._phase == "open":
            self._act(actions.Report(error))
            self._set("refresh", _REFRESH_AGAIN_MS)

    # Timers

    def _timer(self, timer: str) -> None:
        if timer not in self._timers:
            return  # it went off while it was being cancelled
        self._timers.discard(timer)
        kind, _, of = timer.partition(":")
        match kind:
            case "request":
                self._requests.time_up(of, self.last_attempt)
            case "resume":
                self._resumption.time_up(of)
            case "view":
                self._views.time_up(of)
            case "quiet":
                self._quiet()
            case "pong":
                self._drop(CloseCode.HEARTBEAT_LOST, "no answer to a ping")
            case "welcome":
                self._drop(ABNORMAL, "no session.welcome in time")
            case "reconnect":
                self._connect()
            case "refresh":
                self._act(actions.FetchToken("refresh"))

    def _set(self, timer: str, ms: float) -> None:
        self._act(actions.Timer(timer, ms, ms))

    def _cancel(self, timer: str) -> None:
        self._act(actions.Cancel(timer))

    # Putting actions out

    def _ask(self, action: str, data: Mapping[str, Any]) -> str:
        """Send a request of the session's own; not kept over a reconnect."""
        self._ids += 1
        msg_id = f"{self._id_prefix}-{self._ids}"
        self._act(actions.Send(encode(msg_id, self._now, action, data)))
        return msg_id

    def _become(self, state: StateName, error: TowpathError | None = None) -> None:
        if self.state != state:
            self.state = state
            self._act(actions.State(state, error))

    def _act(self, action: Action) -> None:
        """Put an action out; a timer that is not set needs no ``Cancel``."""
        if isinstance(action, actions.Timer):
            self._timers.add(action.timer)
        elif isinstance(action, actions.Cancel):
            if action.timer not in self._timers:
                return
            self._timers.discard(action.timer)
        self._actions.append(action)


def _refused(how: events.Disconnected) -> TowpathError:
    said = f" {how.reason}" if how.reason else ""
    return TowpathError(
        "refused",
        f"The server refused the connection: HTTP {how.status}.{said}",
        retryable=True,
        details={"status": how.status},
        retry_after_ms=how.retry_after_ms,
    )
