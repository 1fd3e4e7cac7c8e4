"""The service as a whole: its schema, and its program on a broker."""

import asyncio
from pathlib import Path

from towpath.chat.app import CHAT, serve
from towpath.chat.settings import ChatSettings
from towpath.protocol.messages import read_directed
from towpath.protocol.routes import PUSH, connection_key
from towpath.servicekit.broker.interface import Binding, Inbox, Message
from towpath.servicekit.broker.memory import MemoryHub
from towpath.servicekit.service import topology
from towpath.testkit.dispatching import GATEWAY, a_command
from towpath.testkit.schema import schema_differences


async def test_the_migrations_make_what_the_code_declares(database_url: str) -> None:
    assert CHAT.storage is not None
    assert await schema_differences(CHAT.storage, database_url) == []


async def test_the_program_answers_what_waited_for_it_and_stops_when_told(tmp_path: Path) -> None:
    settings = ChatSettings(
        amqp_url="memory://", database_url=f"sqlite+aiosqlite:///{tmp_path / 'chat.db'}", admin_port=0
    )
    hub, stop = MemoryHub(), asyncio.Event()
    gateway = Inbox(name="gateway", bindings=[Binding(PUSH, connection_key(GATEWAY))])
    async with hub.connect(name="test") as broker:
        await broker.declare(topology(CHAT, settings.queue_max_length))
        async with broker.subscribe(gateway, prefetch=10) as told:
            join = a_command("chat.join", room="weavers", msg_id="m-1")
            await broker.publish(join.exchange, join.routing_key, Message(body=join.item), mandatory=True)
            program = asyncio.create_task(serve(settings, stop, lambda _, name: hub.connect(name=name)))
            async for delivery in told:
                if any(item.envelope for item in read_directed(delivery.body)):
                    assert b'"chat.join.ok"' in delivery.body
                    break
            stop.set()
            await program
