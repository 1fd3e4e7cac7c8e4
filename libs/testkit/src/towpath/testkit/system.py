"""The whole of Towpath as real processes."""

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

from towpath.testkit import declared
from towpath.testkit.client import WireClient
from towpath.testkit.follower import Follower
from towpath.testkit.processes import Process, Processes, free_port
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.tokens import AUTH_SETTINGS, a_token

#: For tests that make load from one address and few connections, faster than people do: the limits of the gateway
#: stay on, and are never reached; chat does not count deliveries.
LOAD_RATES: Final[dict[str, Any]] = {
    f"{what}_per_{whose}": 100_000
    for what in ("rate", "burst")
    for whose in ("connection", "user", "address")
} | {f"connects_per_{whose}{what}": 100_000 for what in ("", "_burst") for whose in ("user", "address")}
LOAD_RATES["deliveries_per_user"] = 0


class System:
    """RabbitMQ, gateways, chat and orders.

    Attributes:
        gateways: The gateway processes; two after :meth:`start`.
        chat, orders: The services.
    """

    gateways: list[Process]
    chat: Process
    orders: Process

    def __init__(self, rabbitmq: Rabbit, processes: Processes, folder: Path, **settings: Any) -> None:
        self.rabbitmq = rabbitmq
        self._processes = processes
        self._folder = folder
        self._settings = {"amqp_url": rabbitmq.url, "reconnect_max": 1.0, **settings}

    async def start(self, *, gateways: int = 2) -> None:
        """Start everything at once, and wait until all are ready."""
        self.gateways = [self.launch_gateway() for _ in range(gateways)]
        self.chat, self.orders = self.launch_service("chat"), self.launch_service("orders")
        everyone = [*self.gateways, self.chat, self.orders]
        await asyncio.gather(*(process.ready(timeout=60) for process in everyone))

    def launch_gateway(self, **settings: Any) -> Process:
        """One more replica."""
        chosen = {
            "port": free_port(),
            **AUTH_SETTINGS,
            "allowed_origins": "*",
            **settings,
        }
        return self._processes.launch("towpath-gateway", **(self._settings | chosen))

    def launch_service(self, name: str, **settings: Any) -> Process:
        """``chat`` or ``orders``, on the database it had before."""
        chosen = {"database_url": f"sqlite:///{self._folder}/{name}.db", **settings}
        return self._processes.launch(f"towpath-{name}", **(self._settings | chosen))

    @property
    def urls(self) -> list[str]:
        """The WebSocket addresses of the gateways."""
        return [url_of(gateway) for gateway in self.gateways]

    def connect(self, user: str, gateway: int = 0, **options: Any) -> AbstractAsyncContextManager[WireClient]:
        """Connect to one gateway. A frame that does not fit the services' declarations fails the test at the end."""
        options.setdefault("check", declared.installed().frame)
        return WireClient.connect(self.urls[gateway], token=a_token(user), **options)

    def follow(self, user: str, gateway: int = 0) -> AbstractAsyncContextManager[Follower]:
        """Follow on one gateway, and on the others when it is gone."""
        return Follower.follow(user, self.urls[gateway:] + self.urls[:gateway])


def url_of(gateway: Process) -> str:
    """The WebSocket address of a gateway process."""
    return f"ws://127.0.0.1:{gateway.settings['TOWPATH_PORT']}/ws"
