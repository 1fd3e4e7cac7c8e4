"""Settings of the chat service."""

from dataclasses import fields
from typing import Annotated

from pydantic import Field

from towpath.chat.blocks import MOST_BLOCKED
from towpath.chat.limits import MOST_LISTED, MOST_ROOMS, Limits
from towpath.servicekit import Port, Seconds, ServiceSettings


class ChatSettings(ServiceSettings):
    """See :class:`~towpath.servicekit.runtime.settings.ServiceSettings`.

    Attributes:
        rooms_per_user: Rooms that a user may be in, rooms of two not counted.
        direct_rooms_per_user: Rooms of two that a user may be in; counted separately, so that strangers who write to
            a user cannot prevent that user from joining rooms.
        rooms_made_per_day: Rooms that a user may create within 24 hours, by any action.
        invitations_per_user: Open invitations that a user may have.
        invitations_per_pair: Open invitations that a user may have from one other user.
        blocks_per_user: Users whom a user may block.
        crowd_members: Members of a room up to which joins, leaves, read positions, typing and presence are pushed
            one by one. A larger room is a crowd: `chat.crowd` says how many there are, at most once a second.
        deliveries_per_user: Deliveries a second that what one user sends may cause in the long run, on each replica:
            a message in a room that 50 connections hear is 50 deliveries. 0 for no limit.
        deliveries_burst: The same, at once.
        presence_grace: Seconds after the loss of a user's last connection before the user is published as offline.
        gateway_silence: Seconds after which a silent gateway counts as dead, and its users as disconnected; about
        three times the gateways' `alive_interval`.
    """

    admin_port: Port = 8082
    rooms_per_user: Annotated[int, Field(ge=1, le=MOST_ROOMS)] = Limits.rooms_per_user
    direct_rooms_per_user: Annotated[int, Field(ge=1, le=MOST_ROOMS)] = Limits.direct_rooms_per_user
    rooms_made_per_day: Annotated[int, Field(ge=1, le=100_000)] = Limits.rooms_made_per_day
    invitations_per_user: Annotated[int, Field(ge=1, le=1000)] = Limits.invitations_per_user
    invitations_per_pair: Annotated[int, Field(ge=1, le=1000)] = Limits.invitations_per_pair
    blocks_per_user: Annotated[int, Field(ge=1, le=MOST_BLOCKED)] = Limits.blocks_per_user
    crowd_members: Annotated[int, Field(ge=2, le=MOST_LISTED)] = Limits.crowd_members
    deliveries_per_user: Annotated[float, Field(ge=0)] = Limits.deliveries_per_user
    deliveries_burst: Annotated[float, Field(ge=1)] = Limits.deliveries_burst
    presence_grace: Seconds = 10.0
    gateway_silence: Seconds = 15.0

    def limits(self) -> Limits:
        """The limits as the unit of work takes them."""
        return Limits(**{limit.name: getattr(self, limit.name) for limit in fields(Limits)})
