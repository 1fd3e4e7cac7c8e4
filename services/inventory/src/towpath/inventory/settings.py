"""Settings of the inventory service."""

from typing import Annotated

from pydantic import Field

from towpath.inventory.domain import MOST_WATCHED, Rules, Untracked
from towpath.servicekit import Port, ServiceSettings


class InventorySettings(ServiceSettings):
    """See :class:`~towpath.servicekit.runtime.settings.ServiceSettings`.

    Attributes:
        inventory_untracked: Orders with items that `inventory.set` never named. `ignore`: these are not counted.
            `reject`: the order is rejected as `unknown_item`; orders without items are not.
        watches_per_user: Items that a user may watch.
        reservation_retention: Seconds that a reservation is kept after it has ended. A repeated or late
            `order.created` is recognised for so long.
    """

    admin_port: Port = 8084
    inventory_untracked: Untracked = Rules.untracked
    watches_per_user: Annotated[int, Field(ge=1, le=MOST_WATCHED)] = Rules.watches_per_user
    reservation_retention: Annotated[float, Field(ge=60)] = 90 * 86_400

    def rules(self) -> Rules:
        """The rules as the unit of work takes them."""
        return Rules(self.inventory_untracked, self.watches_per_user)
