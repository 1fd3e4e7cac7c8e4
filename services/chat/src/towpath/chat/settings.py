"""Settings of the chat service."""

from typing import Annotated

from pydantic import Field

from towpath.servicekit.settings import DatabaseUrl, Port, Seconds, ServiceSettings


class ChatSettings(ServiceSettings):
    """See :class:`~towpath.servicekit.settings.ServiceSettings`.

    Attributes:
        presence_grace: Seconds that who has lost the last connection may take to come back before others are told.
        presence_members_max: Members of a room up to which presence is told there.
        gateway_silence: Seconds after which a silent gateway is taken for dead, and its people for gone; some three
            times the gateways' `alive_interval`.
    """

    database_url: DatabaseUrl = "sqlite+aiosqlite:///towpath-chat.db"
    admin_port: Port = 8082
    presence_grace: Seconds = 10.0
    presence_members_max: Annotated[int, Field(ge=2)] = 500
    gateway_silence: Seconds = 15.0
