"""Settings of the chat service."""

from towpath.servicekit.settings import DatabaseUrl, Port, ServiceSettings


class ChatSettings(ServiceSettings):
    """See :class:`~towpath.servicekit.settings.ServiceSettings`."""

    database_url: DatabaseUrl = "sqlite+aiosqlite:///towpath-chat.db"
    admin_port: Port = 8082
