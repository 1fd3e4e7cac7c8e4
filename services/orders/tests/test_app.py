"""The service as a whole."""

from towpath.orders.app import ORDERS
from towpath.testkit.schema import schema_differences


async def test_the_migrations_make_what_the_code_declares(database_url: str) -> None:
    assert ORDERS.storage is not None
    assert await schema_differences(ORDERS.storage, database_url) == []
