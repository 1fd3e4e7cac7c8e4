"""The service as a whole: its schema, and its program on a broker."""

from towpath.inventory.app import INVENTORY, serve
from towpath.inventory.settings import InventorySettings
from towpath.testkit.dispatching import a_command, answer_of_program
from towpath.testkit.schema import schema_differences

from .stockroom import WRITER


async def test_the_migrations_make_what_the_code_declares(database_url: str) -> None:
    assert await schema_differences(INVENTORY, database_url) == []


async def test_the_program_answers_waiting_requests_and_stops_on_a_signal(database_url: str) -> None:
    settings = InventorySettings(amqp_url="memory://", database_url=database_url, admin_port=0)
    command = a_command("inventory.set", sku="anvil", on_hand=3, msg_id="m-1", scope=WRITER)
    answer = await answer_of_program(serve, INVENTORY, settings, command)
    assert (answer.action, answer.data["available"]) == ("inventory.set.ok", 3)
