"""The service as a whole: its schema, and its program on a broker."""

from towpath.orders.app import ORDERS, serve
from towpath.orders.settings import OrdersSettings
from towpath.testkit.dispatching import a_command, answer_of_program
from towpath.testkit.schema import schema_differences


async def test_the_migrations_make_what_the_code_declares(database_url: str) -> None:
    assert await schema_differences(ORDERS, database_url) == []


async def test_the_program_answers_waiting_requests_and_stops_on_a_signal(database_url: str) -> None:
    settings = OrdersSettings(amqp_url="memory://", database_url=database_url, admin_port=0)
    command = a_command("order.submit", amount="9.00", msg_id="m-1")
    answer = await answer_of_program(serve, ORDERS, settings, command)
    assert (answer.action, answer.correlation_id) == ("order.submit.ok", "m-1")
