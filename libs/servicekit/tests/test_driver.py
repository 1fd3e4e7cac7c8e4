"""The undocumented names and habits of aio-pika, aiormq and pamqp, one test each.

A test that fails after an upgrade says what else fails, and where to look. The bounds in pyproject.toml keep out
versions that were never tested.
"""

import asyncio
import contextlib
import importlib.metadata
import inspect
import re
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import aiormq
import aiormq.connection
import pytest
from pamqp import commands
from yarl import URL

from towpath.servicekit.broker.rabbitmq.driver import (
    Driver,
    TransportFactory,
    guard_writes,
    new_connection,
    on_consumer_cancelled,
    set_heartbeat_timeout,
)

ADDRESS: Final = URL("amqp://nowhere.invalid/?heartbeat=4")
PATIENCE: Final = 10.0


@pytest.fixture
async def aiormq_connection() -> aiormq.Connection:
    """A connection of aiormq that was never opened; its queue of frames to be written can be read."""
    connection = aiormq.Connection(ADDRESS)
    connection.connection_tune = commands.Connection.Tune(frame_max=4096)
    connection.server_properties = {"capabilities": {}}
    return connection


@pytest.fixture
async def channel(aiormq_connection: aiormq.Connection) -> AsyncIterator[Driver]:
    before = asyncio.all_tasks()
    yield Driver(aiormq_connection, 1, publisher_confirms=False)
    reading = asyncio.all_tasks() - before
    for task in reading:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*reading)


# Connections


class _Asked(ConnectionError):
    pass


class _Transports(TransportFactory):
    async def create(self, url: URL, **_: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        raise _Asked(str(url))


async def test_aio_pika_passes_its_kwargs_on_so_that_sockets_are_opened_by_the_given_factory() -> None:
    # Else no SafeReader is in the way, one odd frame ends the connection, and a hanging socket cannot be aborted.
    connection = new_connection(ADDRESS, "test", _Transports())
    with pytest.raises(_Asked, match=r"nowhere\.invalid"):
        await connection.connect()


async def test_aiormq_closes_a_connection_after_its_grace_timeout(
    aiormq_connection: aiormq.Connection,
) -> None:
    # Else a consuming connection, whose heartbeats are twice as frequent, is dropped when RabbitMQ pauses for 15 s.
    assert vars(aiormq_connection)["_Connection__heartbeat_grace_timeout"] == 3 * (4 + 1)
    source = inspect.getsource(aiormq.Connection)
    assert re.search(r"return delay > self\.__heartbeat_grace_timeout", source)
    assert re.search(r"timeout=self\.__heartbeat_grace_timeout", source)


async def test_the_heartbeat_timeout_of_an_open_connection_can_be_set(
    aiormq_connection: aiormq.Connection,
) -> None:
    # `transport.connection` leads from aio-pika's connection to aiormq's. Else setting the timeout does nothing.
    connection = new_connection(ADDRESS, "test", _Transports())
    closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    underlay = inspect.signature(connection.close).parameters  # aio-pika closes through its transport
    assert "exc" in underlay
    from aio_pika.abc import UnderlayConnection
    from aio_pika.tools import OneShotCallback

    async def ended(_: object) -> None:
        closed.cancel()

    connection.transport = UnderlayConnection(aiormq_connection, OneShotCallback(ended))
    set_heartbeat_timeout(connection, 27.0)
    assert vars(aiormq_connection)["_Connection__heartbeat_grace_timeout"] == 27.0
    connection.transport = None


async def test_aiormq_is_not_ready_while_rabbitmq_blocks_it(aiormq_connection: aiormq.Connection) -> None:
    # Else an alarm of RabbitMQ is not noticed: publishes wait for their time limit instead of failing at once.
    aiormq_connection.connected.set()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await aiormq_connection.ready()  # not unblocked yet
    source = inspect.getsource(aiormq.Connection)
    assert "__connection_unblocked.clear()" in source
    assert "__connection_unblocked.set()" in source


# Reading


def test_aiormq_asks_its_reader_for_nothing_that_a_safe_reader_has_not() -> None:
    # Else connecting fails at the first frame.
    source = inspect.getsource(aiormq.connection.FrameReceiver)
    used = {part.split("(")[0].strip() for part in source.split("self.reader.")[1:]}
    assert used == {"at_eof", "readexactly", "read"}


async def test_asyncio_feeds_a_stream_reader_through_its_attribute() -> None:
    # Else the time of the last bytes stays that of the connect, and every link counts as silent after 10 s.
    fed: list[Any] = []
    reader = asyncio.StreamReader()
    reader.feed_data = fed.append  # type: ignore[assignment,method-assign]  # a stub of the method
    asyncio.StreamReaderProtocol(reader).data_received(b"bytes")
    assert fed == [b"bytes"]


# Channels


async def test_a_channel_reports_a_consumer_that_rabbitmq_cancelled(channel: Driver) -> None:
    # Else a subscription whose queue was deleted waits until the next check, up to 8 s later.
    cancelled = asyncio.Event()
    on_consumer_cancelled(channel, cancelled.set)
    channel.frames.put_nowait((0, commands.Basic.Cancel(consumer_tag="ctag")))
    async with asyncio.timeout(PATIENCE):
        await cancelled.wait()


async def test_a_channel_writes_nothing_after_its_close_ok(
    channel: Driver, aiormq_connection: aiormq.Connection
) -> None:
    # Else one refused publish costs the whole connection, with all publishes in flight on it.
    guard_writes(channel)
    await channel.basic_ack(1, wait=False)
    with contextlib.suppress(aiormq.exceptions.AMQPError):
        await channel._on_close_frame(commands.Channel.Close(404, "no exchange", 0, 0))
    with pytest.raises(aiormq.exceptions.ChannelInvalidStateError):
        await channel.basic_ack(2, wait=False)
    assert _written(aiormq_connection) == ["Basic.Ack", "Channel.CloseOk"]


async def test_a_close_ok_waits_for_the_frames_that_were_queued_before_it(
    channel: Driver, aiormq_connection: aiormq.Connection
) -> None:
    # Else frames of a closed channel are written after its CloseOk, see above.
    guard_writes(channel)
    for tag in range(aiormq_connection.FRAME_BUFFER_SIZE):
        await channel.basic_ack(tag, wait=False)
    waiting = asyncio.create_task(channel.basic_ack(99, wait=False))
    await asyncio.sleep(0)  # it waits for room in the queue
    with contextlib.suppress(aiormq.exceptions.AMQPError):
        await channel._on_close_frame(commands.Channel.Close(404, "no exchange", 0, 0))
    written = []
    async with asyncio.timeout(PATIENCE):
        while "Channel.CloseOk" not in written:
            written += _written(aiormq_connection)
            await asyncio.sleep(0)
    await waiting
    assert written == ["Basic.Ack"] * (aiormq_connection.FRAME_BUFFER_SIZE + 1) + ["Channel.CloseOk"]


def test_aiormq_writes_only_close_ok_without_waiting() -> None:
    # Else the guard takes another frame for CloseOk, and the channel writes nothing any more.
    source = inspect.getsource(Driver)
    assert source.count("write_queue.put_nowait(") == 1
    assert re.search(
        r"write_queue\.put_nowait\(\s+ChannelFrame\.marshall\(\s+.*\s+frames=\[spec\.Channel\.CloseOk", source
    )


def _written(connection: aiormq.Connection) -> list[str]:
    """The names of the frames that wait to be written, which are removed."""
    names = []
    while not connection.write_queue.empty():
        payload = connection.write_queue.get_nowait().payload
        names.append(
            {b"\x00\x3c\x00\x50": "Basic.Ack", b"\x00\x14\x00\x29": "Channel.CloseOk"}[payload[7:11]]
        )
    return names


# Versions


@pytest.mark.parametrize("name", ["aio-pika", "aiormq", "pamqp", "aiosqlite"])
def test_a_package_whose_insides_are_used_is_bounded_on_both_sides(name: str) -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    (bound,) = (one for one in project["dependencies"] if re.split(r"[<>=\[]", one)[0] == name)
    least, below = re.fullmatch(rf"{name}>=([\d.]+),<([\d.]+)", bound).groups()  # type: ignore[union-attr]  # without a bound the test fails here
    installed = _version(importlib.metadata.version(name))
    assert _version(least) <= installed[:2] < _version(below)
    assert len(_version(below)) == 2, "a minor version may change what is inside"


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))
