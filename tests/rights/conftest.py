"""A RabbitMQ with the accounts and queues of an installation, and a raw AMQP client for each account."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiormq
import pytest_asyncio

from towpath.servicekit.broker.rabbitmq import RabbitBroker
from towpath.servicekit.installed import installed_services
from towpath.servicekit.service import topology
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.rights import Rights
from towpath.tools.rabbitmq_node import RabbitControl

#: The inbox of another gateway than the one that tries.
OTHERS_INBOX = "gateway.gw-2.0123456789ab"


@dataclass(frozen=True)
class Installation:
    """One virtual host with everything in it.

    Attributes:
        url: The address, with an account that may do everything.
        connections: Account → its connection; ``everything`` may do everything.
    """

    url: str
    rights: Rights
    connections: dict[str, aiormq.abc.AbstractConnection]

    async def channel(self, account: str) -> aiormq.abc.AbstractChannel:
        """A new channel of an account, with confirms."""
        return await self.connections[account].channel(publisher_confirms=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def installation(rabbitmq_node: RabbitControl) -> AsyncIterator[Installation]:
    """Accounts, exchanges, the log of revocations; each service's queues, made by itself; another gateway's inbox."""
    rights = Rights()
    async with contextlib.AsyncExitStack() as stack:
        rabbitmq = await stack.enter_async_context(Rabbit.on(rabbitmq_node, rights))
        for one in installed_services():
            own = rights.url(rabbitmq.url, one.name)
            async with RabbitBroker.connect(own, name=one.name, user_id=one.name) as broker:
                await broker.declare(topology(one.definition(), 1000))
        connections: dict[str, Any] = {}
        for account in (*(account.name for account in rights.accounts), "everything"):
            url = rabbitmq.url if account == "everything" else rights.url(rabbitmq.url, account)
            connections[account] = connection = await aiormq.connect(url)
            stack.push_async_callback(connection.close)
        other = await aiormq.connect(rights.url(rabbitmq.url, "gateway"))
        stack.push_async_callback(other.close)
        inbox = await other.channel()
        await inbox.queue_declare(OTHERS_INBOX, exclusive=True, auto_delete=True)
        yield Installation(rabbitmq.url, rights, connections)
