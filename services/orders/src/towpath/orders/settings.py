"""Settings of the orders service."""

from towpath.servicekit import Port, ServiceSettings


class OrdersSettings(ServiceSettings):
    """See :class:`~towpath.servicekit.runtime.settings.ServiceSettings`."""

    admin_port: Port = 8083
