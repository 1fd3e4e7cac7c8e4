"""Settings of the orders service."""

from towpath.servicekit import DatabaseUrl, Port, ServiceSettings


class OrdersSettings(ServiceSettings):
    """See :class:`~towpath.servicekit.runtime.settings.ServiceSettings`."""

    database_url: DatabaseUrl = "sqlite+aiosqlite:///towpath-orders.db"
    admin_port: Port = 8083
