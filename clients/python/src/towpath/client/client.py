"""The client as an application sees it.

It hands on to :mod:`towpath.client.driver`, and turns what comes back into what was asked for. A client belongs to
the event loop it was started in; it is not for several threads.
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
    """Make a client. It connects when it is entered (``async with``) or started.

    Args:
        urls: Where the gateway is, such as ``wss://example.org/ws``. Several addresses of the same system: the first
            is tried first, the next when one fails.
        token: The JWT, or a function (a coroutine function, too) that gives one. It is called before the first
            connect, when a token expires or is about to, and after a failed connect, which may have been a refused
            token. Raise a :class:`TowpathError` that is not retryable to give up; any other failure is tried again
            with backoff.
        positions: The last ``seq`` of each stream, from an earlier client. Where both are given, they win over what
            the storage holds.
        storage: Where positions outlive the client.
        queue_limit: How many requests may wait for a connection.
        open_timeout: Seconds that entering may take; and that ``token`` and the storage may take to answer.
        tls: For ``wss``; by default what the system trusts is trusted.

    Raises:
        TowpathError: ``bad_url``.
        TypeError: ``positions`` are none.

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
    """One person or program, connected to Towpath; made by :func:`connect`.

    It stays connected from :meth:`start` to :meth:`close`; ``async with`` does both, and waits for the first
    connection in between.

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
            TowpathError: ``timeout`` after ``open_timeout`` seconds, or what the client was closed by.
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
        """Connect in the background; requests may be made at once. Once is enough, and twice is fine."""
        self._driver.start()

    async def opened(self, timeout: float | None = 30.0) -> dict[str, Any]:
        """Wait until the client is open.

        Args:
            timeout: Seconds; ``None`` waits without a limit.

        Returns:
            What :attr:`connection` holds.

        Raises:
            TowpathError: ``timeout``, which says how the last attempt ended, or what the client was closed by.
        """
        return await self._driver.opened(timeout)

    async def close(self) -> None:
        """End it for good; requests without an answer raise ``closed``.

        Takes two seconds at most, or three if something does not heed its cancellation: the last save of positions
        and listeners that run get that long. Once closed, closing does nothing.
        """
        await self._driver.close()

    # What there is

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
        """The last ``seq`` of each stream; give it to :func:`connect` to go on from there."""
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

        Without a connection it waits for one; after a reconnect it is sent again with the same ``msg_id``, so that
        its effect happens once. Whoever is cancelled here gives the request up; it may still take effect.

        Args:
            action: Such as ``chat.send``.
            data: The payload; a model becomes JSON as it says.
            key: Ordering key: requests of one domain and key are handled in the order they were sent; see
                :func:`towpath.client.key_of`.
            timeout: Seconds; ``None`` waits without a limit.
            on_accepted: Called once the broker has the request safely.
            msg_id: The id of an earlier request, to ask again after an unknown outcome.
            stream: The answer's ``seq`` says where this stream stands, as that of ``chat.join`` does: from there on
                nothing of it is missed.
            into: The model that the answer becomes.

        Returns:
            The answer's data.

        Raises:
            TowpathError: What the server answered, or ``timeout``, ``queue_full``, ``closed``, ``bad_frame``.
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
        """Call ``listener(data, envelope)`` for every push with this action; ``*`` takes all.

        Also a decorator: ``@client.on("chat.message")``. Parameters at the end may be left out. Plain functions are
        called at once and in order, and must not block. Coroutine functions run concurrently, each call as a task
        of its own; to handle pushes one after the other, read :meth:`stream`.

        Besides there are ``incomplete`` (:class:`towpath.client.Incomplete`: load that stream's history anew) and
        ``retry`` (:class:`towpath.client.Retry`), each with one parameter, and those of :meth:`on_state` and
        :meth:`on_error`.

        Returns:
            A function that takes the listener off; as a decorator, the listener.

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
        """Call ``listener(error)`` for what goes wrong in the background.

        That is a listener that raises, a token that cannot be had, a connection that is refused, a frame that makes
        no sense. Without a listener it is logged.
        """
        return self._driver.listeners.add("error", listener)

    def stream(self, name: str, *, limit: int = 1_000) -> StreamReader:
        """The pushes of one stream from now on, in order, each once: ``async for envelope in client.stream(…)``.

        It does not ask for the stream: join, or track it, for that. What the reader has not taken is kept, up to
        ``limit`` pushes. Positions are not saved past a push before the reader has asked for the next one.

        Args:
            name: Such as ``chat:lobby``.
            limit: How many pushes are kept for a reader that is slow; one more ends it with ``overrun``.
        """
        return self._driver.readers.open(name, limit)

    def track(self, stream: str, seq: int) -> None:
        """Take a stream's position from elsewhere, so that nothing after it is missed.

        A position that is known already stays. For the answer to a request, such as ``chat.join``, give the request
        its ``stream`` instead.

        Raises:
            ValueError: ``seq`` is no position.
        """
        if whole(seq) is None or seq < 0:
            raise ValueError(f"{seq!r} is no position of {stream}; it takes a whole number from 0")
        self._driver.tell(events.Track(stream, seq))

    def forget(self, stream: str) -> None:
        """Drop a stream's position: it is not resumed any more."""
        self._driver.tell(events.Forget(stream))

    def resume(self, domain: str | None = None) -> None:
        """Ask for what was missed in all streams of a domain, or of all.

        The client does so by itself after a reconnect and on a hole.
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
