"""Sources: the RabbitMQ account that a message came from, and whether it may send such a message.

RabbitMQ refuses a message whose property ``user_id`` is not the account of its connection, so a reader can believe
it (https://www.rabbitmq.com/docs/validated-user-id). Its permissions keep other accounts from the queues and
exchanges of a service; what they cannot distinguish is decided here. Guarantees, if ``gateway_users`` is set:

* A command is taken if a gateway sent it. It is also taken from a retry queue or an operator: only
  the service itself and operators may write to the exchanges that lead back.
* An event counts as published by a service only if the account of that service published it.

Without the setting every account that may publish is believed, as on a broker with one account for all.
"""

from dataclasses import dataclass
from typing import Final, Self

from towpath.protocol.routes import COMMANDS, again_exchange
from towpath.servicekit.broker.interface import Delivery
from towpath.servicekit.messaging.senders import SERVICE
from towpath.servicekit.runtime.settings import BadSetting, ServiceSettings

#: The reasons of :meth:`Sources.refusal`.
REFUSALS: Final = ("account", "no account", "exchange")
#: A service sends it to itself, without an account, to check its bindings; it contains nothing that could be done.
_EMPTY: Final = b"[]"


@dataclass(frozen=True, slots=True)
class Sources:
    """The accounts that a service believes.

    Attributes:
        gateways: The accounts of gateways; empty if accounts are not checked.
    """

    gateways: frozenset[str] = frozenset()

    @classmethod
    def of(cls, settings: ServiceSettings, service: str) -> Self:
        """The accounts that the settings of ``service`` name.

        Raises:
            BadSetting: Accounts are checked, and this service logs in under another name than its own.
        """
        names = settings.gateway_users
        gateways = frozenset(name for part in names.split(",") if (name := part.strip()))
        if gateways and (own := settings.account) != service:
            raise BadSetting(
                "TOWPATH_GATEWAY_USERS",
                names,
                f"services must log in to RabbitMQ under their own names, and {service!r} logs in as {own!r}: "
                "name its account in TOWPATH_AMQP_URL (`towpath broker setup` makes it), or leave this empty",
            )
        return cls(gateways)

    def refusal(self, command: Delivery) -> str | None:
        """Why a delivery of commands is not taken; ``None`` if it is."""
        if not self.gateways or returns_to_queue(command) or command.body == _EMPTY:
            return None
        if command.exchange != COMMANDS:
            return "exchange"
        if command.user_id is None:
            return "no account"
        return None if command.user_id in self.gateways else "account"

    def service_of(self, event: Delivery) -> str | None:
        """The name of the service that published it, if it was a service."""
        name = event.headers.get(SERVICE)
        if not isinstance(name, str) or not name:
            return None
        return name if not self.gateways or event.user_id == name else None


def returns_to_queue(delivery: Delivery) -> bool:
    """Whether it came through an exchange that leads back to its queue: from a retry queue, or from an operator.

    It is the service's own exchange, or the default one for queues of earlier versions.
    """
    exchange, back = delivery.exchange, again_exchange("")
    return not exchange or (
        exchange.endswith(back) and delivery.queue.startswith(f"{exchange.removesuffix(back)}.")
    )
