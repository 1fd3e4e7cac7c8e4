"""The client as an application sees it.

It passes calls to :mod:`towpath.client.driver`, and converts answers into the type that the caller wants. A client
belongs to the event loop in which it was started; it must not be used from several threads.
"""

import secrets
import ssl
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, overload

import msgspec
from pydantic import BaseModel, ValidationError

from towpath.client import events
from towpath.client.actions import StateName
from towpath.client.driver import Driver, Token
from towpath.client.envelope import is_id, whole
from towpath.client.errors import TowpathError
from towpath.client.listeners import Listener
from towpath.client.session import Session
from towpath.client.storage import Storage, checked_positions
from towpath.client.streams import StreamReader
from towpath.client.transport import checked_url
from towpath.client.view_reader import Load, State, View
from towpath.protocol.envelope import field_problems

AnyListener = TypeVar("AnyListener", bound=Listener)
Model = TypeVar("Model", bound=BaseModel)


def connect(
    urls: str | Sequence[str],
    *,
    token: Token,
    positions: Mapping[str, int] | None = None,
    storage: Storage | None = None,
    queue_limit: int = 256,
    open_timeout: float = 30.0,
    tls: ssl.SSLContext | None = None,
) -> "Client":
    """Create a client. It connects when it is entered (``async with``) or started.

    Args:
        urls: The address of the gateway, such as ``wss://example.org/ws``, or several addresses of one system: after
            a failure the next one is tried.
        token: The JWT, or a function or coroutine function that returns one. It is called before the first connect,
            when a token has expired or is about to, and after a failed connect, whose reason may have been the token.
            If it raises a :class:`TowpathError` that is not retryable, the client is closed; after any other failure
            it is called again, with backoff.
        positions: The last ``seq`` of each stream, from an earlier client. They have precedence over those of
            ``storage``.
        storage: Keeps positions for the next client.
        queue_limit: Number of requests that may wait for a connection; more are refused with ``queue_full``.
        open_timeout: Seconds that entering may take; also the limit of each call of ``token`` and ``storage``.
        tls: For ``wss``; by default the system's certificate authorities are trusted.

    Raises:
        TowpathError: ``bad_url``.
        TypeError: ``positions`` is not a mapping of streams to whole numbers.

    Example:
        >>> client = connect("wss://example.org/ws", token="a JWT", positions={"chat:lobby": 41})
        >>> client.state, client.positions
        ('connecting', {'chat:lobby': 41})
        >>> connect("example.org", token="a JWT")
        Traceback (most recent call last):
        towpath.client.errors.TowpathError: ...
    """
    return Client(
        urls,
        token=token,
        positions=positions,
        storage=storage,
        queue_limit=queue_limit,
        open_timeout=open_timeout,
        tls=tls,
    )


class Client:
    """One user's or program's connection to Towpath; created by :func:`connect`.

    It reconnects until :meth:`close`. ``async with`` calls :meth:`start`, waits for the first connection, and calls
    :meth:`close` at the end.

    Example:
        Listeners may be set before the client connects:

        >>> client = connect("wss://example.org/ws", token="a JWT")
        >>> @client.on("chat.message")
        ... def show(message: dict[str, Any]) -> None:
        ...     print(f"{message['user']}: {message['text']}")
        >>> client.connection is None
        True
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        token: Token,
        positions: Mapping[str, int] | None,
        storage: Storage | None,
        queue_limit: int,
        open_timeout: float,
        tls: ssl.SSLContext | None,
    ) -> None:
        given = [urls] if isinstance(urls, str) else list(urls)
        if not given:
            raise TowpathError("bad_url", "Pass an address: where the gateway is.")
        self._open_timeout = open_timeout
        self._id_prefix = secrets.token_hex(9)
        self._ids = 0
        self._session = Session(
            [checked_url(url) for url in given],
            id_prefix=f"{self._id_prefix}-s",
            positions=checked_positions(positions),
            queue_limit=queue_limit,
        )
        self._driver = Driver(self._session, token, storage, open_timeout, tls)

    # Beginning and end

    async def __aenter__(self) -> Self:
        """Start, and wait until the client is open.

        Raises:
            TowpathError: ``timeout`` after ``open_timeout`` seconds, or the error that closed the client.
        """
        self.start()
        try:
            await self.opened(self._open_timeout)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def start(self) -> None:
        """Connect in the background; requests may be made at once. A second call has no effect."""
        self._driver.start()

    async def opened(self, timeout: float | None = 30.0) -> dict[str, Any]:
        """Wait until the client is open.

        Args:
            timeout: Seconds; ``None`` waits without a limit.

        Returns:
            The value of :attr:`connection`.

        Raises:
            TowpathError: ``timeout``, with the reason of the last failure, or the error that closed the client.
        """
        return await self._driver.opened(timeout)

    async def close(self) -> None:
        """Close the client for good; requests without an answer raise ``closed``.

        It takes at most two seconds, in which positions are saved and running listeners may end; three if one of them
        ignores its cancellation. A second call has no effect.
        """
        await self._driver.close()

    # State

    @property
    def state(self) -> StateName:
        """``connecting``, ``open``, ``recovering`` (it was open and will be again) or ``closed``."""
        return self._session.state

    @property
    def connection(self) -> dict[str, Any] | None:
        """The gateway's data about the open connection (``user_id``, ``gateway_id`` …); else ``None``."""
        return self._driver.connection

    @property
    def positions(self) -> dict[str, int]:
        """The last ``seq`` of each stream; pass it to :func:`connect` to continue from there."""
        return self._session.positions

    # Requests

    @overload
    async def request(
        self,
        action: str,
        data: Mapping[str, Any] | BaseModel | None = None,
        *,
        key: str | None = None,
        timeout: float | None = 30.0,
        on_accepted: Callable[[], object] | None = None,
        msg_id: str | None = None,
        stream: str | None = None,
        into: type[Model],
    ) -> Model: ...
    @overload
    async def request(
        self,
        action: str,
        data: Mapping[str, Any] | BaseModel | None = None,
        *,
        key: str | None = None,
        timeout: float | None = 30.0,
        on_accepted: Callable[[], object] | None = None,
        msg_id: str | None = None,
        stream: str | None = None,
        into: None = None,
    ) -> dict[str, Any]: ...
    async def request(
        self,
        action: str,
        data: Mapping[str, Any] | BaseModel | None = None,
        *,
        key: str | None = None,
        timeout: float | None = 30.0,
        on_accepted: Callable[[], object] | None = None,
        msg_id: str | None = None,
        stream: str | None = None,
        into: type[BaseModel] | None = None,
    ) -> dict[str, Any] | BaseModel:
        """Send a request and wait for its final answer.

        Without a connection it waits for one; after a reconnect it is sent again with the same ``msg_id``, so that it
        takes effect once. If the caller is cancelled, the request may still take effect.

        Args:
            action: Such as ``chat.send``.
            data: The payload: a mapping, or a pydantic model.
            key: Ordering key: requests of one domain and key are handled in the order in which they were sent; see
                :func:`towpath.client.key_of`.
            timeout: Seconds until ``timeout`` is raised; ``None`` for no limit.
            on_accepted: Called once the broker has the request safely.
            msg_id: The id of an earlier request, to repeat it after an unknown outcome.
            stream: Set the position of this stream from ``seq`` of the answer, such as that of ``chat.join``: from
                then on no push of it is missed.
            into: A pydantic model to validate the answer with.

        Returns:
            The answer's data.

        Raises:
            TowpathError: The error that the server answered, or ``timeout``, ``queue_full``, ``closed``,
                ``bad_frame``.
        """
        if msg_id is None:
            self._ids += 1
            msg_id = f"{self._id_prefix}-{self._ids}"
        for name, value in (("msg_id", msg_id), ("key", key)):
            if value is not None and not is_id(value):
                message = f"{name} is {value!r}; it takes 1 to 64 of A-Z a-z 0-9 . _ : - (see key_of)."
                raise TowpathError("bad_envelope", message, details={"sent": False})
        answer = await self._driver.ask(
            events.Request(
                msg_id,
                action,
                data.model_dump(mode="json", by_alias=True) if isinstance(data, BaseModel) else data or {},
                key=key,
                ack=on_accepted is not None,
                timeout_ms=None if timeout is None else max(0, 1000 * timeout),
                stream=stream,
            ),
            on_accepted,
        )
        return answer if into is None else _fit(action, answer, into)

    # Pushes

    @overload
    def on(self, action: str) -> Callable[[AnyListener], AnyListener]: ...
    @overload
    def on(self, action: str, listener: Listener) -> Callable[[], None]: ...
    def on(
        self, action: str, listener: Listener | None = None
    ) -> Callable[[AnyListener], AnyListener] | Callable[[], None]:
        """Call ``listener(data, envelope)`` for each push with this action; ``*`` matches all actions.

        Also a decorator: ``@client.on("chat.message")``. The listener may omit parameters at the end. Plain functions
        are called at once and in order, and must not block. Coroutine functions run concurrently, each call as its
        own task; to handle pushes one after the other, read :meth:`stream`.

        Two more names are ``incomplete`` (:class:`towpath.client.Incomplete`: load that stream's history again) and
        ``retry`` (:class:`towpath.client.Retry`), each with one parameter; see also :meth:`on_state` and
        :meth:`on_error`.

        Returns:
            A function that removes the listener; as a decorator, the listener.

        Raises:
            TypeError: The listener cannot be called like that.
        """
        if listener is not None:
            return self._driver.listeners.add(action, listener)

        def decorate(listener: AnyListener) -> AnyListener:
            self._driver.listeners.add(action, listener)
            return listener

        return decorate

    def on_state(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener(state, error)`` at every change of state; ``error`` says why it is ``closed``."""
        return self._driver.listeners.add("state", listener)

    def on_error(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener(error)`` for each error in the background.

        Such as a listener that raises, a token function that fails, a refused connection, an invalid frame. Without a
        listener the error is logged.
        """
        return self._driver.listeners.add("error", listener)

    def stream(self, name: str, *, limit: int = 1_000) -> StreamReader:
        """The pushes of one stream from now on, in order, each once: ``async for envelope in client.stream(…)``.

        It does not subscribe: send the request that does (such as ``chat.join``), or :meth:`track` the stream. The
        saved position never passes a push before the reader has asked for the next one.

        Args:
            name: Such as ``chat:lobby``.
            limit: Number of pushes that are buffered for a slow reader; one more ends it with ``overrun``.
        """
        return self._driver.readers.open(name, limit)

    def open_view(
        self,
        stream: str,
        load: Load[State],
        *,
        position: Callable[[State], int] | None = None,
        limit: int = 1_000,
        timeout: float = 60.0,
    ) -> View[State]:
        """The state of a stream, and then every later change of it, in order and once.

        The first update is a :class:`Reset` with what ``load`` gave; a :class:`Change` for each later push follows.
        Where changes were missed for good the state is loaded again, and another :class:`Reset` comes.

        Args:
            stream: Such as ``chat:lobby``. Several views of one stream share it.
            load: A coroutine function that gives the state, such as the answer to ``chat.history``. It is called
                again whenever a state is needed, so calling it twice must do no harm. If it raises a
                :class:`TowpathError` that is retryable, that goes to the listeners of :meth:`on_error` and it is
                called again, with backoff. Any other error ends the view.
            position: Gives the position in the stream that a state includes; by default that is its ``seq``. Of
                several answers it is the smallest.
            limit: Number of updates that are kept for a slow reader. Past it they are dropped, and the state is
                loaded again.
            timeout: Seconds that one load may take.

        Returns:
            An async iterator that raises a :class:`TowpathError` when the view ends: that of ``load``; ``forbidden``
            when the service does not send the stream to this user; ``closed`` when the client is closed.

        Raises:
            RuntimeError: The client was not started.
        """
        return self._driver.open_view(stream, load, position=position, limit=limit, timeout=timeout)

    def track(self, stream: str, seq: int) -> None:
        """Set a stream's position from another source, so that no later push is missed.

        A known position is kept. For the answer to a request, such as ``chat.join``, use the request's ``stream``
        parameter instead.

        Raises:
            ValueError: ``seq`` is not a whole number from 0.
        """
        if whole(seq) is None or seq < 0:
            raise ValueError(f"{seq!r} is not a position of {stream}; use a whole number from 0")
        self._driver.tell(events.Track(stream, seq))

    def forget(self, stream: str) -> None:
        """Drop a stream's position: it is no longer resumed."""
        self._driver.tell(events.Forget(stream))

    def resume(self, domain: str | None = None) -> None:
        """Request the missed pushes of all streams of a domain, or of all domains.

        The client does so itself after a reconnect, and when a push is missing.
        """
        self._driver.tell(events.Resume(domain))


def _fit(action: str, answer: dict[str, Any], into: type[BaseModel]) -> BaseModel:
    try:
        # As JSON, so that a strict model takes what JSON has no type for, such as dates.
        return into.model_validate_json(msgspec.json.encode(answer))
    except ValidationError as cause:
        details = field_problems(cause.errors(include_url=False, include_context=False, include_input=False))
        names = ", ".join(dict.fromkeys(field["field"] for field in details["fields"]))
        message = f"The answer to {action} does not fit {into.__name__} because of: {names}."
        raise TowpathError("bad_frame", message, details=details) from cause
