"""``towpath kick``: closes all connections of a user, on every gateway."""

from pathlib import Path
from typing import Final

from towpath.protocol.close_codes import CloseCode
from towpath.protocol.messages import Directed, Disconnect, encode
from towpath.protocol.routes import PUSH, check_user_id, control_key
from towpath.servicekit.broker.interface import Broker, Message, Unroutable
from towpath.tools.operating import run
from towpath.tools.token import BadUser
from towpath.tools.trouble import Trouble

APP_ID: Final = "towpath-kick"


class NobodyThere(Trouble):
    """No gateway would get it."""


def kick(user: str, *, reason: str, data: Path) -> str:
    """Close the connections of ``user``; returns what to say.

    Raises:
        BadUser, NobodyThere
    """
    try:
        check_user_id(user)
    except ValueError as error:
        raise BadUser(f"user {user[:70]!a} cannot be used: {error}") from None
    item = Directed(disconnect=Disconnect(int(CloseCode.KICKED), reason))
    message = Message(body=encode(item), persistent=False, app_id=APP_ID)

    async def publish(broker: Broker) -> None:
        try:
            await broker.publish(PUSH, control_key(user), message, mandatory=True)
        except Unroutable:
            raise NobodyThere(
                f"no gateway on this broker has connections of {user!a}; nothing was done"
            ) from None

    run(publish, data, "kick")
    return f"kicked {user!a}: every gateway closes its connections with {CloseCode.KICKED}"
