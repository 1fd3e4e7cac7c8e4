"""The undocumented parts of the packages that the driver uses: each test fails when one of them changes."""

import asyncio

from yarl import URL

from towpath.publisher.driver import Connection
from towpath.testkit.eventually import eventually
from towpath.testkit.network import Proxy
from towpath.testkit.rabbitmq import Rabbit


async def connected(url: str) -> Connection:
    return await Connection.open(URL(url), "driver", heartbeat=8, timeout=10, tls=None)


async def test_the_time_of_the_last_bytes_is_known(rabbitmq: Rabbit) -> None:
    connection = await connected(rabbitmq.url)
    await asyncio.sleep(0.3)  # the silence that is measured
    silent = connection.silent_for
    assert silent >= 0.3
    await connection.channel(timeout=10)
    assert connection.silent_for < silent
    await connection.close()


async def test_an_alarm_shows_after_a_publish(rabbitmq: Rabbit) -> None:
    connection = await connected(rabbitmq.url)
    channel = await connection.channel(timeout=10)
    assert not await connection.is_blocked()
    await rabbitmq.block()
    publishing: list[asyncio.Task[object]] = []

    async def is_blocked() -> bool:
        # The alarm reaches a connection a moment after it is set, and only a later publish is answered by it.
        publish = channel.basic_publish(b"{}", exchange="", routing_key="none")
        publishing.append(asyncio.create_task(publish))
        return await connection.is_blocked()

    await eventually(is_blocked)
    await rabbitmq.unblock()

    async def is_free() -> bool:
        return not await connection.is_blocked()

    await eventually(is_free)
    await asyncio.gather(*publishing)
    await connection.close()


async def test_a_connection_over_a_hanging_network_is_closed_within_its_time_limit(rabbitmq: Rabbit) -> None:
    address = URL(rabbitmq.url)
    assert address.host is not None
    assert address.port is not None
    async with Proxy.open(address.host, address.port) as proxy:
        connection = await connected(proxy.instead_of(rabbitmq.url))
        proxy.hold()
        async with asyncio.timeout(10):
            await connection.close()
        assert connection.lost.result() == "closed"
