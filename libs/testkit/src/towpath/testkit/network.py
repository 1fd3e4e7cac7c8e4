"""A TCP proxy between a client and a server: a network that breaks on demand.

Guarantees:

* Bytes that arrive are the bytes that were sent, in their order, whatever happened meanwhile. A hole keeps what
  falls into it (``WINDOW`` bytes, then the sender's own buffers fill) and gives it back when it is healed, as TCP
  does after a partition.
* The two directions fail separately. A setting holds for later connections, too.
* The port stays the same: what was refused finds the same address open again.

Not shown: a lost SYN. During a cut, a new connection is accepted and gets no answer.
"""

import asyncio
import contextlib
import random
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator
from typing import Final, Self

from yarl import URL

#: Bytes of one connection and direction that are under way, before its sender has to wait.
WINDOW: Final = 256 * 1024

_CHUNK: Final = 64 * 1024
_REMEMBERED: Final = 256  # bytes that passed, in which the beginning of a hole's mark may be
_AT_ONCE: Final = struct.pack("ii", 1, 0)  # a close that sends RST: socket(7), SO_LINGER


class Direction:
    """The fate of the bytes in one direction.

    Attributes:
        delay: Seconds that each byte is under way.
        jitter: Seconds that are added to it at most, at random; order is kept.
        rate: Bytes a second of each connection at most; ``None`` is without a limit.
        passed: Bytes that have arrived, of all connections.
    """

    def __init__(self, chance: random.Random) -> None:
        self.delay = 0.0
        self.jitter = 0.0
        self.rate: float | None = None
        self.passed = 0
        self._chance = chance
        self._hole: bytes | None = None
        self._cut: int | None = None
        self._healed = asyncio.Event()

    def hold(self, at: bytes = b"") -> None:
        """Make a black hole: bytes go in, and none comes out until :meth:`heal`.

        Args:
            at: In each connection only from where these bytes are; the piece that holds them falls in as well.
        """
        self._hole = at

    def cut_after(self, count: int) -> None:
        """Reset each connection as soon as ``count`` bytes of it have arrived."""
        self._cut = count

    def heal(self) -> None:
        """Undo all of it; what is in a hole arrives now."""
        self.delay = self.jitter = 0.0
        self.rate = self._hole = self._cut = None
        self._healed.set()
        self._healed = asyncio.Event()

    def arrival(self, now: float) -> float:
        """When bytes that are sent now arrive, if nothing holds them up."""
        return now + self.delay + self._chance.uniform(0, self.jitter)

    def room(self, arrived: int) -> int | None:
        """How many more bytes may arrive of a connection until it is cut; ``None``: it is not."""
        return None if self._cut is None else max(0, self._cut - arrived)

    async def past_the_hole(self, passed: bytes, piece: bytes) -> None:
        """Wait while ``piece``, after the bytes that ``passed``, is in the hole."""
        while self._hole is not None and self._hole in passed + piece:
            await self._healed.wait()


class _Flow:
    """The bytes of one connection that go one way."""

    def __init__(
        self, direction: Direction, source: asyncio.StreamReader, target: asyncio.StreamWriter
    ) -> None:
        self._direction = direction
        self._source = source
        self._target = target
        self._under_way: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._changed = asyncio.Condition()
        self._arrived = 0

    async def run(self) -> None:
        """Pass the bytes on to their end; raises ``OSError`` when the connection breaks or is cut."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._take())
            tasks.create_task(self._give())

    async def _take(self) -> None:
        arrival, piece = 0.0, b"-"
        while piece:
            piece = await self._source.read(_CHUNK)  # b"" is the end
            arrival = max(arrival, self._direction.arrival(asyncio.get_running_loop().time()))
            async with self._changed:
                self._under_way.append((arrival, piece))
                self._size += len(piece)
                self._changed.notify_all()
                await self._changed.wait_for(lambda: self._size < WINDOW)

    async def _give(self) -> None:
        passed, piece = b"", b"-"
        while piece:
            async with self._changed:
                await self._changed.wait_for(lambda: self._under_way)
            arrival, piece = self._under_way[0]
            await asyncio.sleep(arrival - asyncio.get_running_loop().time())
            await self._direction.past_the_hole(passed, piece)
            await self._write(piece)
            passed = (passed + piece)[-_REMEMBERED:]
            async with self._changed:
                self._under_way.popleft()
                self._size -= len(piece)
                self._changed.notify_all()
            if self._direction.rate is not None:
                await asyncio.sleep(len(piece) / self._direction.rate)
        with contextlib.suppress(OSError):
            self._target.write_eof()

    async def _write(self, piece: bytes) -> None:
        room = self._direction.room(self._arrived)
        arriving = piece if room is None else piece[:room]
        self._target.write(arriving)
        await self._target.drain()
        self._arrived += len(arriving)
        self._direction.passed += len(arriving)
        if self._direction.room(self._arrived) == 0:
            raise ConnectionResetError("cut")


class _Connection:
    """One client's connection, and the one to the server behind it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._client = (reader, writer)
        self._server: asyncio.StreamWriter | None = None
        self._forgotten = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    async def run(self, proxy: "Proxy") -> None:
        reader, writer = self._client
        try:
            server_reader, self._server = await asyncio.open_connection(*proxy.server)
            upwards = _Flow(proxy.to_server, reader, self._server)
            downwards = _Flow(proxy.to_client, server_reader, writer)
            passing = asyncio.ensure_future(_pass(upwards, downwards))
            forgetting = asyncio.ensure_future(self._forgotten.wait())
            try:
                await asyncio.wait([passing, forgetting], return_when=asyncio.FIRST_COMPLETED)
                if passing.done():
                    passing.result()
                    writer.close()
                    self._server.close()
                    return
            finally:
                passing.cancel()
                forgetting.cancel()
                await asyncio.gather(passing, forgetting, return_exceptions=True)
            _reset(self._server)
            while await reader.read(_CHUNK):
                pass  # a client without a server
        except (OSError, ExceptionGroup):
            pass
        finally:
            _reset(writer)
            if self._server is not None:
                _reset(self._server)

    def forget(self) -> None:
        self._forgotten.set()


class Proxy:
    """A port of 127.0.0.1 that leads to a server.

    Attributes:
        to_server, to_client: The fate of bytes in each direction.
        server: Host and port it leads to.
        port: Its own.
        accepted: Connections that were ever made to it.
    """

    def __init__(self, server: tuple[str, int], seed: int) -> None:
        chance = random.Random(seed)  # jitter that a seed repeats
        self.to_server = Direction(chance)
        self.to_client = Direction(chance)
        self.server = server
        self.port = 0
        self.accepted = 0
        self._connections: set[_Connection] = set()
        self._listener: asyncio.Server | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, host: str, port: int, *, seed: int = 0) -> AsyncIterator[Self]:
        """A proxy from entry to exit; its connections are reset then.

        Args:
            seed: Of the jitter.
        """
        proxy = cls((host, port), seed)
        await proxy.listen()
        try:
            yield proxy
        finally:
            proxy.refuse()
            tasks = [one.task for one in proxy._connections if one.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @classmethod
    def before(cls, url: str, *, seed: int = 0) -> "contextlib.AbstractAsyncContextManager[Self]":
        """A proxy before the server of ``url``, which names its port."""
        parsed = URL(url)
        assert parsed.host is not None
        assert parsed.port is not None
        return cls.open(parsed.host, parsed.port, seed=seed)

    def instead_of(self, url: str) -> str:
        """``url`` with the proxy for its server."""
        return str(URL(url).with_host("127.0.0.1").with_port(self.port))

    @property
    def connections(self) -> int:
        """How many are open now, half-open ones included."""
        return len(self._connections)

    def refuse(self) -> None:
        """Accept no new connections (the client's connect is refused); those that are stay."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def listen(self) -> None:
        """Accept connections again."""
        if self._listener is None:
            listener = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
            self._listener, self.port = listener, listener.sockets[0].getsockname()[1]

    def hold(self) -> None:
        """Make a black hole of both directions."""
        self.to_server.hold()
        self.to_client.hold()

    def reset(self) -> None:
        """End every connection with RST, both ways."""
        for connection in self._connections:
            assert connection.task is not None
            connection.task.cancel()

    def half_open(self) -> None:
        """End every connection on the server's side, without a notice to the client."""
        for connection in self._connections:
            connection.forget()

    def heal(self) -> None:
        """Undo what was done to either direction. Half-open connections stay, as in life."""
        self.to_server.heal()
        self.to_client.heal()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        connection = _Connection(reader, writer)
        self._connections.add(connection)
        connection.task = asyncio.create_task(connection.run(self), name="proxy: connection")
        connection.task.add_done_callback(lambda _: self._connections.discard(connection))


async def _pass(one: _Flow, other: _Flow) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(one.run())
        tasks.create_task(other.run())


def _reset(writer: asyncio.StreamWriter) -> None:
    sock: socket.socket | None = writer.get_extra_info("socket")
    if sock is not None and not writer.is_closing():
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    writer.transport.abort()
