"""One message from RabbitMQ, until it is settled."""

from collections.abc import Mapping
from typing import Any, Protocol

from towpath.servicekit.broker.rabbitmq.driver import DeliveredMessage, Driver


class Settler(Protocol):
    """Sends settlements to the broker."""

    def settle(self, channel: Driver, tag: int, how: str) -> None: ...


class RabbitDelivery:
    """See :class:`~towpath.servicekit.broker.interface.Delivery`."""

    __slots__ = ("_channel", "_is_settled", "_message", "_settler", "queue")

    def __init__(
        self,
        message: DeliveredMessage,
        queue: str,
        settler: Settler,
        channel: Driver,
    ) -> None:
        self._message = message
        self._settler = settler
        self._channel = channel
        self._is_settled = False
        self.queue = queue

    @property
    def body(self) -> bytes:
        return self._message.body

    @property
    def exchange(self) -> str:
        return self._message.exchange or ""

    @property
    def routing_key(self) -> str:
        return self._message.routing_key or ""

    @property
    def redelivered(self) -> bool:
        return bool(self._message.redelivered)

    @property
    def app_id(self) -> str | None:
        return self._message.header.properties.app_id

    @property
    def user_id(self) -> str | None:
        return self._message.header.properties.user_id

    @property
    def headers(self) -> Mapping[str, Any]:
        return self._message.header.properties.headers or {}

    def ack(self) -> None:
        self._settle("ack")

    def reject(self) -> None:
        self._settle("reject")

    def requeue(self) -> None:
        self._settle("requeue")

    def _settle(self, how: str) -> None:
        # RabbitMQ closes the channel of a client that settles twice: https://www.rabbitmq.com/docs/confirms
        if self._is_settled:
            return
        self._is_settled = True
        tag = self._message.delivery_tag
        assert tag is not None
        self._settler.settle(self._channel, tag, how)


class LogDelivery(RabbitDelivery):
    """A message of a log."""

    __slots__ = ()

    def _settle(self, how: str) -> None:
        # RabbitMQ 3.10 closes the connection for anything but an ack: "not supported by stream queues".
        super()._settle("ack")
