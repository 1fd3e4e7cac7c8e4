"""Sources: with ``gateway_users`` a service believes the accounts that RabbitMQ has validated, and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from towpath.servicekit.messaging.sources import REFUSALS, Sources, returns_to_queue
from towpath.servicekit.runtime.settings import BadSetting, ServiceSettings

CHECKED: Final = Sources(frozenset({"gateway", "edge"}))
UNCHECKED: Final = Sources()


@dataclass(frozen=True)
class Sent:
    """A delivery, as far as it says who sent it."""

    user_id: str | None = None
    exchange: str = "towpath.commands"
    queue: str = "chat.commands.3"
    body: bytes = b"{}"
    headers: Mapping[str, Any] = field(default_factory=dict)
    routing_key: str = "chat.3"
    app_id: str | None = "gateway"
    redelivered: bool = False

    def ack(self) -> None: ...
    def reject(self) -> None: ...
    def requeue(self) -> None: ...


@pytest.mark.parametrize("user", ["gateway", "edge"])
def test_a_command_of_a_gateway_is_taken(user: str) -> None:
    assert CHECKED.refusal(Sent(user)) is None
    assert CHECKED.refusal(Sent(user, redelivered=True)) is None


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (Sent("chat"), "account"),
        (Sent("Gateway"), "account"),
        (Sent("gateway "), "account"),
        (Sent(""), "account"),
        (Sent(None), "no account"),
        (Sent("gateway", exchange="towpath.events"), "exchange"),
        (Sent("gateway", exchange="orders.again"), "exchange"),
        (Sent("gateway", exchange="amq.topic"), "exchange"),
        (Sent("gateway", exchange=".again"), "exchange"),
        (Sent(None, headers={"x-attempt": 1, "x-replayed": 1}), "no account"),
    ],
)
def test_a_command_of_anybody_else_is_refused(sent: Sent, reason: str) -> None:
    assert CHECKED.refusal(sent) == reason
    assert reason in REFUSALS
    assert UNCHECKED.refusal(sent) is None


@pytest.mark.parametrize("exchange", ["chat.again", ""])
@pytest.mark.parametrize("user", ["chat", "ops", None])
def test_a_command_from_a_retry_queue_or_an_operator_is_taken(exchange: str, user: str | None) -> None:
    """RabbitMQ lets only the service and operators write there; messages of earlier versions name no account."""
    assert CHECKED.refusal(Sent(user, exchange=exchange)) is None


def test_the_check_of_a_binding_is_not_refused() -> None:
    assert CHECKED.refusal(Sent(None, body=b"[]")) is None


def test_a_service_is_known_by_its_account() -> None:
    claims = {"x-service": "orders"}
    assert CHECKED.service_of(Sent("orders", headers=claims)) == "orders"
    for other in ("chat", "backend", None):
        assert CHECKED.service_of(Sent(other, headers=claims)) is None
        assert UNCHECKED.service_of(Sent(other, headers=claims)) == "orders"


@pytest.mark.parametrize("odd", [None, 5, b"orders", ""])
def test_an_odd_name_of_a_service_is_none(odd: Any) -> None:
    for sources in (CHECKED, UNCHECKED):
        assert sources.service_of(Sent("orders", headers={"x-service": odd})) is None


@pytest.mark.parametrize(
    ("exchange", "queue", "returns"),
    [
        ("", "chat.events", True),
        ("chat.again", "chat.events", True),
        ("chat.again", "chatter.events", False),
        ("chat.againx", "chat.events", False),
        ("towpath.events", "chat.events", False),
    ],
)
def test_only_its_own_exchange_leads_back_to_a_queue(exchange: str, queue: str, returns: bool) -> None:
    assert returns_to_queue(Sent(exchange=exchange, queue=queue)) is returns


# Settings


def test_accounts_are_not_checked_unless_they_are_named() -> None:
    assert Sources.of(ServiceSettings(amqp_url="amqp://guest:guest@localhost/"), "chat") == UNCHECKED
    assert Sources.of(ServiceSettings(gateway_users=""), "chat") == UNCHECKED


def test_several_accounts_are_separated_by_commas() -> None:
    settings = ServiceSettings(amqp_url="amqp://chat:x@localhost/", gateway_users="gateway, edge,")
    assert Sources.of(settings, "chat") == CHECKED


def test_a_certificate_names_the_account_by_setting() -> None:
    url = "amqps://localhost/?auth=external"
    settings = ServiceSettings(amqp_url=url, amqp_user_id="chat", gateway_users="gateway,edge")
    assert Sources.of(settings, "chat") == CHECKED


@pytest.mark.parametrize("url", ["amqp://guest:secret@localhost/", "amqp://localhost/", "memory://"])
def test_a_service_that_checks_accounts_must_have_one_of_its_own(url: str) -> None:
    """Else it would take its own events for those of a backend."""
    with pytest.raises(BadSetting) as error:
        Sources.of(ServiceSettings(amqp_url=url, gateway_users="gateway"), "chat")
    assert "TOWPATH_GATEWAY_USERS='gateway'" in str(error.value)
    assert "'chat' logs in as" in str(error.value)
    assert "secret" not in str(error.value)
