"""Settings of the orders service."""

from towpath.servicekit import Port, Seconds, ServiceSettings


class OrdersSettings(ServiceSettings):
    """See :class:`~towpath.servicekit.runtime.settings.ServiceSettings`.

    Attributes:
        order_repeat: Seconds until an order with items that is still `submitted` is published as `order.undecided`,
            and then after four times as long each time, for a day; also until `order.cancelled` is published once
            more. Both are for services whose queue was missing.
    """

    admin_port: Port = 8083
    order_repeat: Seconds = 60.0
