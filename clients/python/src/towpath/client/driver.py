"""The driver: does with a WebSocket and timers what the session decides, and hands on what comes of it.

Guarantees:

* Nothing is left unhandled: a listener, a token function or a storage that fails is reported to the listeners.
* Every wait is bounded and can be cancelled.
* After :meth:`Driver.close` no task, timer or socket is left.
"""

import asyncio
import inspect
import random
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from towpath.client import actions, events
from towpath.client.errors import TowpathError
from towpath.client.listeners import Listeners
from towpath.client.session import Session
from towpath.client.storage import Saving, Storage
from towpath.client.streams import Readers
from towpath.client.tasks import Tasks
from towpath.client.transport import Transport
from towpath.client.view_reader import Change, Feed, Load, Reset, State, View
from towpath.protocol.envelope import now_ms

#: A JWT, or a function that gives one, now or later.
Token: TypeAlias = str | Callable[[], str | Awaitable[str]]

#: For what is under way when the client is closed: goodbyes, the last save, listeners. Then it is cancelled.
_CLOSE_TIME: Final = 2.0
#: A server or caller that names a year, or infinity, means never; event loops want a number.
_LONGEST_TIMER_MS: Final = 2.0**31


@dataclass(frozen=True, slots=True)
class Retry:
    """No connection; another attempt follows.

    Attributes:
        attempt: 1 for the first.
        delay: Seconds until then.
        code: Close code of the last connection; ``None`` when there was no token to connect with.
        reason: For people.

    Example:
        >>> Retry(attempt=1, delay=0.4, code=1012, reason="the gateway restarts").delay
        0.4
    """

    attempt: int
    delay: float
    code: int | None
    reason: str


class Driver:
    """Runs one session in one event loop.

    Args:
        session: Decides.
        token: The token to connect with.
        storage: Where its positions outlive it.
        time_limit: Seconds that ``token`` and the storage may take to answer.
        tls: For ``wss``.

    Attributes:
        listeners: Those of the application.
        readers: Likewise, of streams.
        connection: The gateway's data about the open connection; else ``None``.
    """

    def __init__(
        self,
        session: Session,
        token: Token,
        storage: Storage | None,
        time_limit: float,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._errands = Tasks()  # pointless once the client is closed
        self._tasks = Tasks()
        self.listeners = Listeners(self._tasks)
        self.readers = Readers(self._moved)
        self.connection: dict[str, Any] | None = None
        self._session = session
        self._token = token
        self._saving = (
            None if storage is None else Saving(storage, self._positions_to_save, self.listeners.report)
        )
        self._time_limit = time_limit
        self._tls = tls
        self._loop: asyncio.AbstractEventLoop | None = None
        self._transport: Transport | None = None
        self._closed_by: TowpathError | None = None
        self._reconnect_in = 0.0
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._feeds: dict[str, Feed[Any]] = {}
        self._views = 0
        self._waiting: dict[str, _Waiting] = {}
        self._opened: set[asyncio.Future[dict[str, Any]]] = set()
        self._actions: deque[actions.Action] = deque()
        self._acting = False
        self._changes = 0
        self._does: dict[type, Callable[[Any], None]] = {
            actions.FetchToken: self._do_fetch_token,
            actions.Connect: self._do_connect,
            actions.Disconnect: self._do_disconnect,
            actions.Send: self._do_send,
            actions.Timer: self._do_timer,
            actions.Cancel: self._do_cancel,
            actions.Resolve: self._do_resolve,
            actions.Reject: self._do_reject,
            actions.Accepted: self._do_accepted,
            actions.Push: self._do_push,
            actions.Incomplete: self._do_incomplete,
            actions.Load: self._do_load,
            actions.Reset: self._do_reset,
            actions.Change: self._do_change,
            actions.ViewFailed: self._do_view_failed,
            actions.Welcome: self._do_welcome,
            actions.State: self._do_state,
            actions.Retry: self._do_retry,
            actions.Report: self._do_report,
        }

    def start(self) -> None:
        """Connect in the background. Once is enough, and twice is fine."""
        if self._loop is not None:
            return
        self._loop = asyncio.get_running_loop()
        if self._saving is None:
            self.tell(events.Start())
        else:
            self._errands.spawn(self._load_and_start(self._saving), self._report)

    async def opened(self, timeout: float | None) -> dict[str, Any]:
        """Wait until there is a connection, and return what the gateway said of it.

        Raises:
            TowpathError: ``timeout``, or what the session was closed by.
        """
        loop = self._started()
        if self.connection is not None:
            return self.connection
        if self._closed_by is not None:
            raise self._closed_by.copied()
        opened: asyncio.Future[dict[str, Any]] = loop.create_future()
        self._opened.add(opened)
        try:
            async with asyncio.timeout(timeout):
                return await opened
        except TimeoutError:
            last = self._session.last_attempt
            ended = "no attempt has ended yet" if last is None else f"the last attempt: {last}"
            raise TowpathError(
                "timeout", f"Not open within {timeout:g} s; {ended}.", retryable=True
            ) from None
        finally:
            self._opened.discard(opened)
            _retrieved(opened)

    async def ask(self, request: events.Request, on_accepted: Callable[[], object] | None) -> dict[str, Any]:
        """Make a request and wait for its final answer; cancellation abandons the request.

        Raises:
            TowpathError: The error of the rejected request.
        """
        loop = self._started()
        msg_id = request.msg_id
        if msg_id in self._waiting:
            raise TowpathError("conflict", f"A request with msg_id {msg_id} is under way already.")
        answer: asyncio.Future[dict[str, Any]] = loop.create_future()
        self._waiting[msg_id] = _Waiting(answer, on_accepted)
        self.tell(request)
        try:
            return await answer
        finally:
            # Still there: the caller was cancelled before an answer or a rejection.
            if self._waiting.pop(msg_id, None) is not None:
                self.tell(events.Abandon(msg_id, TowpathError("aborted", "The caller gave the request up.")))
            _retrieved(answer)

    def open_view(
        self,
        stream: str,
        load: Load[State],
        *,
        position: Callable[[State], int] | None,
        limit: int,
        timeout: float,
    ) -> View[State]:
        """A view of ``stream``; see :meth:`towpath.client.Client.open_view`."""
        self._started()
        self._views += 1
        name = f"{self._views}"

        def closed() -> None:
            del self._feeds[name]
            self.tell(events.CloseView(name))

        feed = Feed(
            stream,
            load,
            position=position,
            limit=limit,
            timeout=timeout,
            reload=lambda: self.tell(events.ReloadView(name)),
            closed=closed,
        )
        self._feeds[name] = feed
        self.tell(events.OpenView(name, stream))
        return View(feed)

    async def close(self) -> None:
        """End it for good, and what is under way within :data:`_CLOSE_TIME`."""
        self.tell(events.Close())
        await self._tasks.finish(_CLOSE_TIME)
        await self._errands.finish(0)

    def tell(self, event: events.Event) -> None:
        """Give the session an event and do what follows.

        An event that comes up meanwhile (a listener makes a request) has its actions done after those in hand, so
        that the order stays the session's.
        """
        self._actions.extend(self._session.handle(event, now_ms()))
        if self._acting:
            return
        self._acting = True
        try:
            while self._actions:
                action = self._actions.popleft()
                self._does[type(action)](action)
        finally:
            self._acting = False
        if self._session.changes != self._changes:
            self._changes = self._session.changes
            self._moved()

    def _do_fetch_token(self, action: actions.FetchToken) -> None:
        self._errands.spawn(self._fetch_token(action.purpose), self._report)

    def _do_connect(self, action: actions.Connect) -> None:
        self._transport = Transport(
            action.url, action.token, self._tls, heard=self._on_received, ended=self._disconnected
        )
        self._tasks.spawn(self._transport.run(), self._report)

    def _do_disconnect(self, action: actions.Disconnect) -> None:
        transport = self._transport
        self._transport = self.connection = None
        if transport is not None:
            # Its last frames, and its end, must not reach the session any more.
            transport.mute()
            self._tasks.spawn(transport.close(action.code, action.reason), self._report)

    def _do_send(self, action: actions.Send) -> None:
        # Frames that a closing connection does not accept are sent again on the next one by the session.
        if self._transport is not None:
            self._transport.send(action.text)

    def _do_timer(self, action: actions.Timer) -> None:
        if (old := self._timers.pop(action.timer, None)) is not None:
            old.cancel()
        least, most = min(action.min_ms, _LONGEST_TIMER_MS), min(action.max_ms, _LONGEST_TIMER_MS)
        seconds = random.uniform(least, most) / 1000  # noqa: S311  # jitter
        self._timers[action.timer] = self._started().call_later(seconds, self._timer_up, action.timer)
        if action.timer == "reconnect":
            self._reconnect_in = seconds

    def _do_cancel(self, action: actions.Cancel) -> None:
        if (timer := self._timers.pop(action.timer, None)) is not None:
            timer.cancel()

    def _do_resolve(self, action: actions.Resolve) -> None:
        waiting = self._waiting.pop(action.msg_id, None)
        if waiting is not None and not waiting.answer.done():
            waiting.answer.set_result(action.data)

    def _do_reject(self, action: actions.Reject) -> None:
        waiting = self._waiting.pop(action.msg_id, None)
        if waiting is not None and not waiting.answer.done():
            waiting.answer.set_exception(action.error)

    def _do_accepted(self, action: actions.Accepted) -> None:
        waiting = self._waiting.get(action.msg_id)
        if waiting is not None and waiting.on_accepted is not None:
            self.listeners.call(waiting.on_accepted)

    def _do_push(self, action: actions.Push) -> None:
        envelope = action.envelope
        if "." not in envelope["action"]:
            return  # a push has a domain; other names are the client's own events
        self.listeners.emit(envelope["action"], envelope["data"], envelope)
        self.listeners.emit("*", envelope["data"], envelope)
        self.readers.put(envelope)

    def _do_incomplete(self, action: actions.Incomplete) -> None:
        self.listeners.emit("incomplete", action)

    def _do_load(self, action: actions.Load) -> None:
        if (feed := self._feeds.get(action.view)) is not None:
            feed.loading = self._errands.spawn(self._load(action.view, feed), self._report)

    def _do_reset(self, action: actions.Reset) -> None:
        if (feed := self._feeds.get(action.view)) is not None:
            feed.put(Reset(action.state, action.seq))

    def _do_change(self, action: actions.Change) -> None:
        envelope = action.envelope
        if (feed := self._feeds.get(action.view)) is not None:
            feed.put(Change(envelope["action"], envelope["data"], envelope["seq"], envelope))

    def _do_view_failed(self, action: actions.ViewFailed) -> None:
        if (feed := self._feeds.get(action.view)) is not None:
            feed.end(action.error)

    def _do_welcome(self, action: actions.Welcome) -> None:
        self.connection = action.data

    def _do_state(self, action: actions.State) -> None:
        if action.state == "open" and self.connection is not None:
            for opened in self._opened:
                if not opened.done():
                    opened.set_result(self.connection)
        elif action.state == "closed" and action.error is not None:
            self._end(action.error)
        self.listeners.emit("state", action.state, action.error)

    def _do_retry(self, action: actions.Retry) -> None:
        self.listeners.emit("retry", Retry(action.attempt, self._reconnect_in, action.code, action.reason))

    def _do_report(self, action: actions.Report) -> None:
        self.listeners.report(action.error)

    def _end(self, error: TowpathError) -> None:
        """The session is closed: nothing more will come."""
        self._closed_by = error
        for opened in self._opened:
            if not opened.done():
                opened.set_exception(error.copied())
        self._errands.cancel()
        self.readers.end(error)
        if self._saving is not None:
            self._saving.end()

    # Events

    async def _load_and_start(self, saving: Saving) -> None:
        loaded = await saving.load(self._time_limit)
        self._tasks.spawn(saving.run(), self._report)
        for stream, seq in loaded.items():
            # Before the start: the first resume must name them.
            self.tell(events.Track(stream, seq))
        self.tell(events.Start())

    async def _fetch_token(self, purpose: events.Purpose) -> None:
        try:
            async with asyncio.timeout(self._time_limit) as limit:
                token: Any = self._token() if callable(self._token) else self._token
                if inspect.isawaitable(token):
                    token = await token
            token = _checked_token(token)
        except TowpathError as error:
            self.tell(events.TokenFailed(purpose, error))
        except asyncio.CancelledError:
            me = asyncio.current_task()
            # Without a request to cancel this task, the application's own code was cancelled, which is a failure like
            # any other: https://docs.python.org/3/library/asyncio-task.html#asyncio.Task.cancelling
            if me is None or me.cancelling():
                raise
            self._token_failed(purpose, "it was cancelled")
        except Exception as cause:
            late = isinstance(cause, TimeoutError) and limit.expired()
            said = f"no answer within {self._time_limit:g} s" if late else str(cause) or type(cause).__name__
            self._token_failed(purpose, said, cause)
        else:
            self.tell(events.Token(purpose, token))

    def _token_failed(self, purpose: events.Purpose, said: str, cause: Exception | None = None) -> None:
        error = TowpathError("no_token", f"token() failed: {said}", retryable=True)
        error.__cause__ = cause
        self.tell(events.TokenFailed(purpose, error))

    async def _load(self, name: str, feed: Feed[Any]) -> None:
        try:
            async with asyncio.timeout(feed.timeout) as limit:
                state = await feed.load()
            seq = feed.position_of(state)
        except TowpathError as error:
            failed = error
        except asyncio.CancelledError:
            me = asyncio.current_task()
            # As in _fetch_token.
            if me is None or me.cancelling():
                raise
            failed = _load_failed(feed.stream, "it was cancelled")
        except Exception as cause:
            if isinstance(cause, TimeoutError) and limit.expired():
                message = f"load() gave no state of {feed.stream} within {feed.timeout:g} s"
                failed = TowpathError("timeout", message, retryable=True)
            else:
                failed = _load_failed(feed.stream, str(cause) or type(cause).__name__)
            failed.__cause__ = cause
        else:
            self.tell(events.Loaded(name, seq, state))
            return
        self.tell(events.LoadFailed(name, failed))

    def _on_received(self, frame: str | bytes) -> None:
        self.tell(events.Frame(frame))

    def _disconnected(self, how: events.Disconnected) -> None:
        self._transport = self.connection = None
        self.tell(how)

    def _timer_up(self, timer: str) -> None:
        del self._timers[timer]
        self.tell(events.Timer(timer))

    def _moved(self) -> None:
        if self._saving is not None:
            self._saving.changed()

    def _report(self, error: BaseException) -> None:
        self.listeners.report(error)

    def _positions_to_save(self) -> dict[str, int]:
        return self.readers.hold_back(self._session.positions)

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise RuntimeError("The client was not started: use `async with`, or call start().")
        return self._loop


@dataclass(slots=True)
class _Waiting:
    """A caller that waits for an answer."""

    answer: "asyncio.Future[dict[str, Any]]"
    on_accepted: Callable[[], object] | None


def _load_failed(stream: str, said: str) -> TowpathError:
    return TowpathError("load_failed", f"load() of {stream} failed: {said}")


def _checked_token(token: Any) -> str:
    if not isinstance(token, str):
        raise TowpathError("no_token", f"token() gave {type(token).__name__}; it has to give a JWT, a str.")
    trimmed = token.strip()  # it may come from a file, or from a program's output
    if not trimmed or not all("!" <= letter <= "~" for letter in trimmed):
        kind = "an empty string" if not trimmed else "a string that cannot stand in an HTTP header"
        raise TowpathError("no_token", f"token() gave {kind}; it has to give a JWT.")
    return trimmed


def _retrieved(future: "asyncio.Future[Any]") -> None:
    # A caller cancelled at the moment of the answer never reads the exception; asyncio would log that.
    if future.done() and not future.cancelled():
        future.exception()
