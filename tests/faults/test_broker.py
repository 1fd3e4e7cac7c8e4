"""RabbitMQ restarts, dies, freezes, raises alarms, or loses what was declared."""

import asyncio
from typing import Final

import aio_pika
import pytest

from towpath.servicekit.broker.interface import Inbox
from towpath.testkit.eventually import eventually
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System
from towpath.tools.rabbitmq_node import RabbitNode

from .broker import Broker
from .conftest import StartSystem
from .trial import Trial

#: Of a gateway, in messages.
_INBOX_LENGTH: Final = Inbox(name="any").max_length


@pytest.mark.faults_short
async def test_a_broker_that_restarts_loses_nothing_that_was_accepted(
    system: System, rabbitmq: Rabbit, trial: Trial
) -> None:
    async with trial.of("RabbitMQ stopped for 2 s", system, within=20):
        await rabbitmq.stop()
        await asyncio.sleep(2)
        await rabbitmq.start()
        trial.strike()


async def test_a_killed_broker_has_every_message_that_it_confirmed(
    own_node: RabbitNode, start_system: StartSystem, trial: Trial
) -> None:
    system = await start_system(Rabbit(own_node, "/", own_node.url()))
    async with trial.of("RabbitMQ killed (SIGKILL)", system, within=20):
        own_node.kill()
        await asyncio.to_thread(own_node.boot)
        trial.strike()


@pytest.mark.parametrize("seconds", [5, 40])
async def test_a_frozen_broker_is_waited_for_or_its_link_is_dropped_without_a_backlog(
    own_node: RabbitNode, start_system: StartSystem, trial: Trial, seconds: int
) -> None:
    system = await start_system(Rabbit(own_node, "/", own_node.url()))
    async with trial.of(f"RabbitMQ frozen for {seconds} s (SIGSTOP)", system, within=20):
        own_node.pause()
        await asyncio.sleep(seconds)
        own_node.resume()
        trial.strike()


@pytest.mark.parametrize("kind", ["memory", "disk"])
async def test_an_alarm_means_busy_at_once_and_drops_no_connection(
    system: System, broker: Broker, trial: Trial, kind: str
) -> None:
    set_alarm = getattr(broker, f"set_{kind}_alarm")
    async with system.connect("eve") as eve, trial.of(f"{kind} alarm for 8 s", system, within=10) as load:
        before = await broker.holdings()
        opened = [device.client.connection for device in load.devices]
        loop = asyncio.get_running_loop()
        await set_alarm(True)
        try:
            raised = loop.time()

            async def is_busy() -> bool:
                answer = await eve.request("order.list", timeout=10)
                return bool(answer["data"].get("code") == "busy")

            await eventually(is_busy, timeout=5)
            # RabbitMQ reports its alarm only to publishers; from then on no request waits.
            busy = loop.time() - raised
            trial.note(f"busy after {busy:.1f} s")
            assert busy < 1.5
            waited = len(load.journal.asked)
            await asyncio.sleep(8)
            assert len(load.journal.asked) <= waited + len(load.people) + 1
        finally:
            await set_alarm(False)
        trial.strike()
        await trial.recovers()
        assert [device.client.connection for device in load.devices] == opened
        await broker.returns_to(before)


async def test_connections_closed_by_an_operator_are_reopened(
    system: System, broker: Broker, trial: Trial
) -> None:
    async with trial.of("all AMQP connections closed every 2 s", system, within=10) as load:
        before = await broker.holdings()
        for _ in range(6):
            assert await broker.close_connections()
            trial.strike()
            await load.flows(1, timeout=60)
            await asyncio.sleep(2)
        await trial.recovers()
        await broker.returns_to(before)


async def test_a_program_refused_for_a_while_reconnects(system: System, broker: Broker, trial: Trial) -> None:
    async with trial.of("permissions taken away for 4 s", system, within=15):
        await broker.forbid()
        try:
            await asyncio.sleep(4)
        finally:
            await broker.allow()
        trial.strike()


async def test_a_gateway_that_lost_its_inbox_gets_another_one(
    system: System, broker: Broker, trial: Trial
) -> None:
    async with trial.of("gateways' inboxes deleted", system, within=15):
        for name in await broker.queues("gateway."):
            await broker.delete_queue(name)
        trial.strike()


async def test_a_gateway_that_lost_its_bindings_detects_and_repairs_it(
    system: System, broker: Broker, trial: Trial
) -> None:
    async with trial.of("gateways' bindings removed", system, within=25):
        assert await broker.unbind("gateway.")
        trial.strike()


async def test_a_deleted_command_queue_is_declared_again(
    system: System, broker: Broker, trial: Trial
) -> None:
    # Without the queue there is no consumer to reply, and the gateway answers so.
    fault = "command queues deleted"
    async with trial.of(fault, system, within=15, may_refuse=["unknown_action"]):
        for name in await broker.queues("chat.commands."):
            await broker.delete_queue(name)
        trial.strike()


async def test_deleted_exchanges_are_declared_again(system: System, broker: Broker, trial: Trial) -> None:
    async with trial.of("push exchange deleted", system, within=25):
        await broker.delete_exchange("towpath.push")
        trial.strike()


async def test_users_of_a_gateway_with_an_overflowed_inbox_resume_completely(
    system: System, rabbitmq: Rabbit, broker: Broker, trial: Trial
) -> None:
    async with trial.of("gateway's inbox overflows while it is frozen", system, within=20):
        (frozen,) = await broker.queues(f"gateway.{await _gateway_id(system, 0)}")
        system.gateways[0].pause()
        try:
            await _flood(rabbitmq.url, _INBOX_LENGTH + 1_000)
            assert await broker.length(frozen) <= _INBOX_LENGTH  # the pushes to users are among the rest
        finally:
            system.gateways[0].resume()
        trial.strike()


async def _gateway_id(system: System, number: int) -> str:
    async with system.connect("eve", number) as eve:
        welcome = await eve.next("session.welcome")
        return str(welcome["data"]["gateway_id"])


async def _flood(url: str, count: int) -> None:
    """Push to a group without members."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel(publisher_confirms=False)
        push = await channel.get_exchange("towpath.push", ensure=False)
        body = b'{"msg_id":"m","timestamp":1,"action":"wave.made","data":{"token":"none"},"version":"1.0"}'
        for _ in range(count):
            await push.publish(aio_pika.Message(body), "group.nobody", mandatory=False)
