"""Many at once: reconnects, and redelivered messages."""

import contextlib
from collections.abc import AsyncIterator

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage

from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System

from .conftest import StartSystem
from .trial import Trial

_ECHO = "x-echo"


async def test_a_thousand_clients_of_a_killed_gateway_resume_within_10_s(
    rabbitmq: Rabbit, start_system: StartSystem, trial: Trial
) -> None:
    system = await start_system(rabbitmq)
    # One says something every second or so, in the room that all 1,000 are in.
    async with trial.of(
        "gateway killed with 1,000 clients on it",
        system,
        within=10,
        crowd=100,
        users=["ana", "ben"],
        pause=0.4,
    ) as load:
        crowd = [device for person in load.crowd for device in person.devices]
        assert len(crowd) == 1000
        assert all(device.client.state == "open" for device in crowd)
        before = max(device.client.positions["chat:lobby"] for device in crowd)
        await system.gateways[0].kill()
        trial.strike()
        await load.people[1].devices[0].client.opened(30)

        def all_resumed() -> bool:
            # There were messages since, and the users are past them: they have reconnected and have the missed ones.
            return all(
                device.client.state == "open" and device.client.positions["chat:lobby"] > before + 1
                for device in crowd
            )

        await trial.until(all_resumed)


@contextlib.asynccontextmanager
async def an_echo(url: str, *exchanges: str) -> AsyncIterator[list[int]]:
    """Publish again whatever is published to ``exchanges``, as it was, some moments later.

    Yields how many, as a list of one.
    """
    count = [0]
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        for name in exchanges:
            await queue.bind(await channel.get_exchange(name, ensure=False), "#")

        async def again(message: AbstractIncomingMessage) -> None:
            # Waves have no id of their own place: who publishes them twice means two.
            if _ECHO in message.headers or b"wave.made" in message.body:
                return
            copy = aio_pika.Message(
                message.body,
                headers={**message.headers, _ECHO: 1},
                content_type=message.content_type,
                delivery_mode=message.delivery_mode,
                app_id=message.app_id,
                type=message.type,
            )
            exchange = await channel.get_exchange(str(message.exchange), ensure=False)
            await exchange.publish(copy, str(message.routing_key))
            count[0] += 1

        await queue.consume(again, no_ack=True)
        yield count


async def test_doubled_messages_take_effect_once_and_are_shown_once(
    system: System, rabbitmq: Rabbit, trial: Trial
) -> None:
    async with (
        an_echo(rabbitmq.url, "towpath.commands", "towpath.events", "towpath.push") as echoed,
        trial.of("every message delivered twice", system) as load,
    ):
        await load.flows(400, timeout=60)
        assert echoed[0] > 400


@pytest.mark.parametrize("what", ["gateways", "services"])
async def test_a_rolling_restart_under_500_messages_a_second_is_not_noticed(
    rabbitmq: Rabbit, start_system: StartSystem, trial: Trial, what: str
) -> None:
    system = await start_system(rabbitmq)
    users = [f"user{number}" for number in range(100)]
    async with trial.of(
        f"rolling restart of the {what}",
        system,
        within=15,
        users=users,
        rooms=["room"],
        circles=25,
        pause=0.1,
    ) as load:
        trial.note(f"{await load.rate(over=5):.0f} messages a second before it")
        if what == "gateways":
            for number in range(2):
                port = system.gateways[number].settings["TOWPATH_PORT"]
                assert await system.gateways[number].terminate() == 0
                system.gateways[number] = system.launch_gateway(port=port)
                await system.gateways[number].ready()
                trial.strike()
                await load.flows(500, timeout=60)
        else:
            for name in ("chat", "orders"):
                old = getattr(system, name)
                new = system.launch_service(name)
                await new.ready()
                assert await old.terminate() == 0
                setattr(system, name, new)
                trial.strike()
                await load.flows(500, timeout=60)
