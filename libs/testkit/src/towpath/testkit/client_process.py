"""A client SDK in a process of its own, driven line by line: the same commands and events in every language.

The drivers are in ``tests/e2e/clients``. They read one JSON object a line, call the SDK accordingly, and
print the events of the SDK, one JSON object a line.

Guarantees:

* Events are kept in the order of the SDK.
* The SDK must end as it should: a client that leaves anything unhandled, writes to standard error, or does not end by
  itself with status 0 after ``close`` fails the test.
* The process ends with the test.
"""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from typing import IO, Any, Final

from towpath.testkit.eventually import eventually

Event = dict[str, Any]
Envelope = dict[str, Any]

_LONGEST_LINE: Final = 2**24


class RequestFailed(Exception):
    """The SDK refused or rejected what it was asked.

    Attributes:
        code, retryable, details: Of the ``TowpathError``; ``details`` is empty where it has none.
    """

    def __init__(self, error: Event) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.code: str = error["code"]
        self.retryable: bool = error["retryable"]
        self.details: dict[str, Any] = error.get("details") or {}


class ClientEnded(Exception):
    """The process is gone, and something was still expected of it."""


class NoToken(Exception):
    """Raised by a ``token`` function: the SDK's token callback fails with this text."""


class ClientProcess:
    """One client of one person.

    Attributes:
        events: All events of the SDK so far. Each has ``event``, ``at`` (seconds on the process's own clock) and its
            particulars.
        token: Called each time the SDK asks for a token.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, token: Callable[[], str], errors: IO[bytes]
    ) -> None:
        self.events: list[Event] = []
        self.token = token
        self._process = process
        self._errors = errors
        self._handles = (f"c{n}" for n in itertools.count(1))
        self._outcomes: dict[str, list[Event]] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def start(
        cls, command: Sequence[str], *, token: Callable[[], str]
    ) -> AsyncIterator["ClientProcess"]:
        """A driver that waits for :meth:`connect`; at the end it has ended, and well."""
        with tempfile.TemporaryFile() as errors:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                limit=_LONGEST_LINE,
                env={name: value for name, value in os.environ.items() if not name.startswith("TOWPATH_")},
            )
            client = cls(process, token, errors)
            listening = asyncio.create_task(client._listen())
            try:
                yield client
                await client._end()
                await listening
                client._must_be_clean()
            except BaseException as failure:
                failure.add_note(client._account())
                raise
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
                await listening

    # -- commands for the SDK

    async def connect(self, urls: Sequence[str], **options: Any) -> None:
        """Make the client, and wait until the SDK took the options.

        Args:
            urls: Of the gateways.
            options: ``positions``, ``queue_limit``; ``storage`` is the path of a file.

        Raises:
            RequestFailed: The options cannot work.
        """
        await self.answer(self._tell("connect", urls=list(urls), **options))

    async def opened(self, timeout: float = 30.0) -> Event:
        """Wait as the SDK waits for the connection, and return what it gives.

        Raises:
            RequestFailed: It gave up after ``timeout`` seconds, or is closed.
        """
        return await self.answer(self._tell("opened", timeout=timeout), timeout=timeout + 10)

    async def request(self, action: str, data: Event | None = None, **options: Any) -> Event:
        """Ask, and return the data of the answer.

        Args:
            action, data: Of the envelope.
            options: As of :meth:`ask`.

        Raises:
            RequestFailed
        """
        return await self.answer(self.ask(action, data, **options))

    def ask(self, action: str, data: Event | None = None, **options: Any) -> str:
        """Ask without waiting; returns a handle for :meth:`answer` and :meth:`outcomes`.

        Args:
            action, data: Of the envelope.
            options: ``key``, ``stream``, ``ack``, ``msg_id``, and ``timeout`` in seconds.
        """
        return self._tell("request", action=action, data=data or {}, **options)

    async def answer(self, handle: str, *, timeout: float = 60.0) -> Event:
        """The data of the answer.

        Raises:
            RequestFailed, ClientEnded
        """
        outcome = await self.outcome(handle, timeout=timeout)
        if outcome["event"] == "failed":
            raise RequestFailed(outcome["error"])
        data: Event = outcome["data"]
        return data

    async def outcome(self, handle: str, *, timeout: float = 60.0) -> Event:
        """The event that ends a request: ``answer`` with ``data``, or ``failed`` with ``error``.

        Raises:
            ClientEnded: There is none, and none will come.
        """

        def is_told() -> bool:
            if not self.outcomes(handle) and self._process.returncode is not None:
                raise ClientEnded(f"The client ended with status {self._process.returncode}.")
            return bool(self.outcomes(handle))

        await eventually(is_told, timeout=timeout)
        return self.outcomes(handle)[0]

    def outcomes(self, handle: str) -> list[Event]:
        """All such events of one request so far; one is right."""
        return self._outcomes.get(handle, [])

    async def accepted(self, handle: str, *, timeout: float = 30.0) -> None:
        """Wait until the SDK reports that the broker has confirmed a request."""
        await self.event("accepted", lambda one: one["id"] == handle, timeout=timeout)

    def stream(self, name: str) -> None:
        """Read a stream with the SDK's iterator from now on; see :meth:`streamed`."""
        self._tell("stream", stream=name)

    def view(self, stream: str, action: str, data: Event) -> str:
        """Open a view of a stream, whose state is the answer to ``action``; see :meth:`viewed`.

        Returns a handle for :meth:`answer`, which the end of the view decides.
        """
        return self._tell("view", stream=stream, action=action, data=data)

    def close(self) -> None:
        """End the session for good."""
        self._tell("close")

    # -- events of the SDK

    def told(self, event: str) -> list[Event]:
        """All events of one kind so far."""
        return [one for one in self.events if one["event"] == event]

    async def event(
        self, event: str, wanted: Callable[[Event], bool] = lambda _: True, *, timeout: float = 30.0
    ) -> Event:
        """The first event of one kind that is ``wanted``, of those that came or will come."""
        found: list[Event] = await eventually(
            lambda: [one for one in self.told(event) if wanted(one)], timeout=timeout
        )
        return found[0]

    @property
    def states(self) -> list[str]:
        """The states it went through."""
        return [event["state"] for event in self.told("state")]

    @property
    def gateways(self) -> list[str]:
        """The ids of the gateways it was open on, in that order."""
        return [event["gateway_id"] for event in self.told("state") if event["state"] == "open"]

    def pushes(self, stream: str) -> list[Envelope]:
        """The pushes of a stream that listeners were given."""
        return [event["envelope"] for event in self.told("push") if event["envelope"].get("stream") == stream]

    def streamed(self, stream: str) -> list[Envelope]:
        """The pushes that the iterator of a stream gave."""
        return [event["envelope"] for event in self.told("streamed") if event["envelope"]["stream"] == stream]

    def viewed(self, stream: str) -> tuple[Event, list[Envelope]]:
        """The last state that a view gave (``seq``, ``state``), and the changes since.

        Raises:
            AssertionError: A change does not follow what was before it.
        """
        updates = [
            one for one in self.events if one["event"] in ("reset", "change") and one["stream"] == stream
        ]
        assert updates[0]["event"] == "reset", "a state comes first"
        reset = updates[0]
        changes: list[Envelope] = []
        for update in updates[1:]:
            if update["event"] == "reset":
                reset, changes = update, []
                continue
            assert update["seq"] == reset["seq"] + len(changes) + 1, f"after {update['seq'] - 1}"
            changes.append(update["envelope"])
        return reset, changes

    async def reopened(self, *, times: int = 2, timeout: float = 30.0) -> Event:
        """Wait until it has been open ``times`` times, and return that event."""
        await eventually(lambda: len(self.gateways) >= times, timeout=timeout)
        return [event for event in self.told("state") if event["state"] == "open"][times - 1]

    # -- the process

    def pause(self) -> None:
        """Freeze it (SIGSTOP): its sockets stay open and nothing is read."""
        self._process.send_signal(signal.SIGSTOP)

    def unpause(self) -> None:
        """Let it go on (SIGCONT)."""
        self._process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """End it without a chance to save anything (SIGKILL); nothing more is asked of it."""
        self._process.kill()
        await self._process.wait()

    @property
    def _killed(self) -> bool:
        return self._process.returncode == -signal.SIGKILL

    def _tell(self, what: str, **particulars: Any) -> str:
        handle = next(self._handles)
        given = {name: value for name, value in particulars.items() if value is not None}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": what, "id": handle, **given}).encode() + b"\n")
        return handle

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            event = json.loads(line)
            self.events.append(event)
            if event["event"] == "token":
                self._give_token()
            elif event["event"] in ("answer", "failed"):
                self._outcomes.setdefault(event["id"], []).append(event)

    def _give_token(self) -> None:
        assert self._process.stdin is not None
        if self._process.stdin.is_closing():
            return  # it was closed amid asking
        try:
            self._tell("token", token=self.token())
        except NoToken as error:
            self._tell("token", error=str(error))

    async def _end(self) -> None:
        if self._killed:
            return
        self.close()
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(10):
                status = await self._process.wait()
        except TimeoutError:
            raise AssertionError("The client still runs 10 s after it was closed.") from None
        assert status == 0, f"The client ended with status {status}."

    def _must_be_clean(self) -> None:
        assert self.told("unhandled") == []
        assert self._stderr() == ""

    def _stderr(self) -> str:
        return os.pread(self._errors.fileno(), 2**20, 0).decode("utf-8", "replace")

    def _account(self) -> str:
        last = "\n".join(json.dumps(event)[:300] for event in self.events[-25:])
        return f"The client said last:\n{last}\nIts standard error:\n{self._stderr()}"
