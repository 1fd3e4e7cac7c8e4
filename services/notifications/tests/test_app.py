"""The service as a whole: its schema, and its program on a broker."""

from towpath.notifications.app import NOTIFICATIONS, serve
from towpath.notifications.settings import NotificationsSettings
from towpath.testkit.dispatching import a_command, answer_of_program
from towpath.testkit.schema import schema_differences


async def test_the_migrations_make_what_the_code_declares(database_url: str) -> None:
    assert await schema_differences(NOTIFICATIONS, database_url) == []


async def test_the_program_answers_waiting_requests_and_stops_on_a_signal(sqlite_url: str) -> None:
    settings = NotificationsSettings(amqp_url="memory://", database_url=sqlite_url, admin_port=0)
    command = a_command("notification.list", msg_id="m-1")
    answer = await answer_of_program(serve, NOTIFICATIONS, settings, command)
    assert (answer.action, answer.correlation_id) == ("notification.list.ok", "m-1")
    assert answer.data == {"notifications": [], "seq": 0, "read_seq": 0, "unread": 0, "has_more": False}
