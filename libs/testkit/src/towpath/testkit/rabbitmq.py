"""A real RabbitMQ for a test: an empty virtual host, and faults that a test may cause.

Guarantees:

* Each test has a virtual host of its own, and it is gone when the test is over.
* Whatever a test did to the broker (stopped it, blocked it) is undone before the next one.
"""

import contextlib
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from towpath.testkit.containers import docker_answers
from towpath.testkit.rights import Rights
from towpath.tools.packages import RABBITMQ
from towpath.tools.rabbitmq_node import NodeFailed, RabbitControl, RabbitNode

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

_IMAGE = "rabbitmq:4"
_PORT = 5672

#: A limit of hangs: a busy machine takes its time.
_BOOT_SECONDS: Final = 180.0


class RabbitContainer(RabbitControl):
    """RabbitMQ in a container that is already running."""

    def __init__(self, container: "DockerContainer | Any", password: str) -> None:
        self._container = container
        self._password = password

    def url(self, vhost: str = "/") -> str:
        """The AMQP URL of a virtual host, with the password."""
        host = self._container.get_container_host_ip()
        port = self._container.get_exposed_port(_PORT)
        return f"amqp://{self.user}:{self._password}@{host}:{port}/{quote(vhost, safe='')}"

    def evaluate(self, expression: str, *, timeout: float = 60.0) -> str:
        """Evaluate Erlang inside the node; see :meth:`RabbitControl.evaluate`."""
        command = ["rabbitmqctl", "--timeout", f"{timeout:.0f}", "eval", f"{expression}."]
        status, output = self._container.exec(command)
        text = bytes(output).decode("utf-8", "replace").strip()
        if status != 0:
            raise NodeFailed(f"RabbitMQ refused `{expression}`: {text}")
        return text


class Rabbit:
    """One test's RabbitMQ.

    Attributes:
        url: The AMQP URL of a virtual host for this test alone.
    """

    def __init__(self, control: RabbitControl, vhost: str, url: str) -> None:
        self._control = control
        self._vhost = vhost
        self._stopped = False
        self._blocked = False
        self.url = url

    @classmethod
    @contextlib.asynccontextmanager
    async def on(cls, control: RabbitControl, rights: Rights | None = None) -> AsyncIterator["Rabbit"]:
        """An empty virtual host on a running broker, which is as before afterwards.

        Args:
            rights: The accounts that programs have in it, beside that of the test.
        """
        vhost = f"test-{secrets.token_hex(4)}"
        rabbit = cls(control, vhost, await control.add_vhost(vhost))
        try:
            if rights is not None:
                await rights.grant(control, vhost)
            yield rabbit
        finally:
            await rabbit._undo()

    async def stop(self) -> None:
        """Stop the broker: every connection ends, and no new one is accepted."""
        self._stopped = True
        await self._control.stop_app()

    async def start(self) -> None:
        """Start it again; connections are accepted when this returns."""
        await self._control.start_app()
        self._stopped = False

    async def block(self) -> None:
        """Raise the memory alarm: publishers get ``connection.blocked`` and no more confirms."""
        self._blocked = True
        await self._control.set_memory_alarm(True)

    async def unblock(self) -> None:
        """Clear the memory alarm."""
        await self._control.set_memory_alarm(False)
        self._blocked = False

    async def allow_topics(self, exchange: str, pattern: str) -> None:
        """Let publish to ``exchange`` under routing keys that match ``pattern`` only; for connections made later."""
        await self._control.allow_topics(self._vhost, exchange, pattern)

    async def _undo(self) -> None:
        if self._stopped:
            await self.start()
        if self._blocked:
            await self.unblock()
        await self._control.delete_vhost(self._vhost)


@contextlib.contextmanager
def running() -> Iterator[RabbitControl]:
    """A RabbitMQ of our own: the named program, else in a container where Docker runs, else the machine's program.

    Raises:
        ProgramMissing: None is to be had.
    """
    if not RABBITMQ.named and docker_answers():
        with _in_container() as control:
            yield control
        return
    node = RabbitNode(boot_timeout=_BOOT_SECONDS)
    node.boot()
    try:
        yield node
    finally:
        node.halt()


@contextlib.contextmanager
def _in_container() -> Iterator[RabbitControl]:
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    password = secrets.token_urlsafe(18)
    container = (
        DockerContainer(_IMAGE)
        .with_exposed_ports(_PORT)
        .with_env("RABBITMQ_DEFAULT_USER", RabbitContainer.user)
        .with_env("RABBITMQ_DEFAULT_PASS", password)
        .waiting_for(LogMessageWaitStrategy("Server startup complete"))
    )
    with container:
        yield RabbitContainer(container, password)
