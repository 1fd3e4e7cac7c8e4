"""Brokers: one interface, a RabbitMQ and a memory implementation, one contract suite."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from towpath.servicekit.broker.interface import Broker
from towpath.servicekit.broker.rabbitmq import RabbitBroker
from towpath.servicekit.runtime import amqp_url
from towpath.servicekit.runtime.settings import BadSetting, BrokerSettings
from towpath.servicekit.runtime.tls import TlsFiles

#: Opens a broker connection under a name. A service receives this function, so that it never chooses the broker
#: itself.
Connect = Callable[[BrokerSettings, str], AbstractAsyncContextManager[Broker]]

__all__ = ["Broker", "Connect", "connect"]


def connect(settings: BrokerSettings, name: str) -> AbstractAsyncContextManager[Broker]:
    """A connection to the broker that ``settings.amqp_url`` names, to be entered with ``async with``.

    Args:
        name: Names the connection on the broker, for operators.

    Raises:
        BadSetting: ``memory://``, which only exists inside the all-in-one process; certificate files that cannot be
            used, or that would not be.

    Example:
        >>> try:
        ...     connect(BrokerSettings(amqp_url="memory://"), "hello")
        ... except BadSetting as error:
        ...     print(str(error).partition(":")[0])
        TOWPATH_AMQP_URL='memory
    """
    if settings.amqp_url.startswith("memory:"):
        raise BadSetting(
            "TOWPATH_AMQP_URL",
            settings.amqp_url,
            "the memory broker lives inside one process: use `towpath dev --broker memory`, "
            "or give the amqp:// address of a RabbitMQ",
        )
    return RabbitBroker.connect(
        _url(settings),
        name=name,
        publish_timeout=settings.publish_timeout,
        reconnect_max=settings.reconnect_max,
        message_max_bytes=settings.message_max_bytes,
        user_id=settings.account,
    )


def _url(settings: BrokerSettings) -> str:
    files = TlsFiles.of_broker(settings)
    try:
        url = amqp_url.with_files(
            settings.amqp_url, ca=files.ca, certificate=files.certificate, key=files.key
        )
    except ValueError as error:
        raise BadSetting("TOWPATH_AMQP_URL", None, str(error)) from None
    if files.named:
        # Now: later it would be retried for ever, as a file may be about to be replaced.
        files.client_context()
    return url
