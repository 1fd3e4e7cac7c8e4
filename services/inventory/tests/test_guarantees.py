"""The delivery guarantees, for the handlers of the inventory."""

import pytest

from towpath.inventory.app import INVENTORY
from towpath.testkit import Example, Guarantee, guarantees

from .stockroom import a_set, created, moved

STOCKED = [a_set("anvil", 5)]


@pytest.mark.parametrize(
    "guarantee",
    guarantees(
        INVENTORY,
        a_set("anvil", 5),
        Example(message=created("O-1", anvil=2), after=STOCKED),
        Example(message=moved("shipped", "O-1"), after=[*STOCKED, created("O-1", anvil=2)]),
        stories=[
            [a_set("anvil", 5), created("O-1", anvil=2), moved("cancelled", "O-1")],
            [a_set("bolt", 9), created("O-2", bolt=3), moved("shipped", "O-2")],
        ],
        complete=False,  # a watch is not a matter of delivery, and the events that end an order share a handler
    ),
    ids=str,
)
async def test_the_inventory_keeps(guarantee: Guarantee) -> None:
    await guarantee.holds()
