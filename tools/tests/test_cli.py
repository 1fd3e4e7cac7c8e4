"""``towpath token`` and ``towpath publish``, as typed."""

import subprocess
import sys
from pathlib import Path

import pytest

from towpath.gateway.admission.credentials import Admission
from towpath.gateway.settings import GatewaySettings
from towpath.orders.app import ORDERS
from towpath.protocol import messages
from towpath.protocol.routes import EVENTS, EXCHANGES
from towpath.servicekit.broker.interface import Binding, Exchange, Inbox, Topology
from towpath.servicekit.broker.rabbitmq import RabbitBroker
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.testkit.processes import Processes
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.tokens import SECRET
from towpath.tools.data_folder import DataFolder, RunningDev
from towpath.tools.order_events import KNOWN

TOWPATH = Path(sys.executable).parent / "towpath"


def towpath(*arguments: str, **settings: str) -> tuple[int, str, str]:
    """Run it; status, output and errors."""
    ran = subprocess.run(
        [TOWPATH, *arguments],
        env={f"TOWPATH_{name.upper()}": value for name, value in settings.items()},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return ran.returncode, ran.stdout, ran.stderr


def admission(secret: str) -> Admission:
    """That of a gateway with this secret."""
    settings = GatewaySettings(auth_secret=secret, development=True)
    return Admission(settings, Telemetry("gateway", settings))


def test_without_a_command_it_shows_help() -> None:
    status, output, errors = towpath()
    assert (status, errors) == (0, "")
    assert all(command in output for command in ("dev", "web", "token", "publish", "kick", "revoke"))


def test_tab_completes_commands() -> None:
    completed = subprocess.run(
        [TOWPATH],
        env={"_TOWPATH_COMPLETE": "complete_bash", "COMP_WORDS": "towpath do", "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert completed.stdout.split() == ["doctor"]


def test_a_token_is_accepted_by_a_gateway_with_the_same_secret() -> None:
    status, output, errors = towpath("token", "--user", "ana", "--scope", "chat", auth_secret=SECRET)
    assert (status, errors) == (0, "")
    identity = admission(SECRET).identify(output.strip())
    assert (identity.user_id, identity.scope) == ("ana", "chat")
    assert identity.token_id  # so that it can be revoked


def test_a_token_is_signed_with_the_secret_of_the_folder(tmp_path: Path) -> None:
    secret = DataFolder(tmp_path).secret()
    _, output, _ = towpath("token", "--user", "ana", "--data", str(tmp_path))
    assert admission(secret).identify(output.strip()).user_id == "ana"
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


async def test_a_published_event_is_a_plain_envelope_on_the_broker(
    rabbitmq: Rabbit, processes: Processes
) -> None:
    inbox = Inbox(name="listener", bindings=[Binding(EVENTS, "order.*")])
    async with RabbitBroker.connect(rabbitmq.url, name="listener") as broker:
        await broker.declare(Topology([Exchange(name) for name in EXCHANGES]))
        async with broker.subscribe(inbox, prefetch=10) as deliveries:
            publishing = processes.launch(
                *("towpath", "publish", "order.paid", "--order", "O1", "--user", "ana", "--amount", "9.90"),
                *("--currency", "EUR", "--revision", "2", "--detail", "by card", "--msg-id", "m-1"),
                amqp_url=rabbitmq.url,
            )
            assert await publishing.ended() == 0, publishing.output
            assert publishing.output == "m-1\n"
            delivery = await anext(deliveries)
            delivery.ack()
    envelope = messages.read_object(delivery.body)
    assert (delivery.routing_key, delivery.app_id) == ("order.paid", "demo-backend")
    assert (envelope["msg_id"], envelope["action"], envelope["version"]) == ("m-1", "order.paid", "1.0")
    assert envelope["data"] == {
        "order_id": "O1",
        "user_id": "ana",
        "amount": "9.90",
        "currency": "EUR",
        "revision": 2,
        "detail": "by card",
    }


async def test_an_event_without_a_consumer_is_not_published(rabbitmq: Rabbit, processes: Processes) -> None:
    publishing = processes.launch(
        "towpath", "publish", "order.paid", "--order", "O1", "--user", "ana", amqp_url=rabbitmq.url
    )
    assert await publishing.ended() == 1
    assert publishing.output == "towpath: no service consumes order.paid: start the orders service once\n"


def test_a_killed_dev_is_ignored(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    told = RunningDev(1, "http://127.0.0.1:1", "ws://127.0.0.1:1/ws", "http://127.0.0.1:1/v1", None, {}, {})
    with folder.held():
        folder.tell(told)
        assert DataFolder(tmp_path).running() == told
        left = (tmp_path / "dev.json").read_text()
    (tmp_path / "dev.json").write_text(left)
    assert DataFolder(tmp_path).running() is None


def test_the_known_events_are_those_that_orders_consumes() -> None:
    assert set(KNOWN) == set(ORDERS.events)


@pytest.mark.parametrize(
    ("command", "settings", "line"),
    [
        (
            "token --data /nowhere --user ana",
            {},
            "TOWPATH_AUTH_SECRET: is not set, and /nowhere/secret is not",
        ),
        ("token", {"auth_secret": SECRET}, "Missing option '--user'"),
        (
            "token --user ana --expires-in 0",
            {},
            "Invalid value for '--expires-in': Input should be greater than or equal to 1",
        ),
        (
            "token --user a\tb",
            {"auth_secret": SECRET},
            "user 'a\\tb' cannot be used: a user id must not contain control characters",
        ),
        (
            "token --user ana",
            {"auth_secret": f"{SECRET}\n"},
            "TOWPATH_AUTH_SECRET: begins or ends with white space",
        ),
        (
            "web",
            {"amqp_uri": "amqp://127.0.0.1"},
            "TOWPATH_AMQP_URI: is not a setting; did you mean TOWPATH_AMQP_URL?",
        ),
        (
            "publish order.shiped --order O1 --user ana",
            {},
            "'order.shiped' is not an order event, did you mean order.shipped?",
        ),
        ("publish order.paid", {}, "Missing option '--order'"),
        ("publish order.paid --order O1", {}, "Missing option '--user'"),
        (
            "publish order.paid --order O1 --user ana --amount 9,90",
            {},
            "amount '9,90': must be a decimal number",
        ),
        (
            "publish order.paid --order O1 --user ana --amount 9.90 --currency JPY",
            {},
            "amount '9.90': must have at most 0 decimals",
        ),
        (
            "publish order.paid --order O1 --user ana --amount 9.90 --currency ZZZ",
            {},
            "currency 'ZZZ': there is no currency ZZZ in ISO 4217",
        ),
        ("publish order.paid --order O1 --user ana --msg-id a/b", {}, "msg_id 'a/b': must be 1 to 64 of"),
        (
            "publish order.paid --order O1 --user ana --data /nowhere",
            {},
            "there is no broker to publish to: set TOWPATH_AMQP",
        ),
        (
            "publish order.paid --order O1 --user ana",
            {"amqp_url": "amqp://127.0.0.1:1"},
            "TOWPATH_AMQP_URL='amqp://127.0.0.1:1'",
        ),
        ("web --demo", {}, "TOWPATH_AUTH_SECRET: is not set; the demo signs tokens with it"),
        (
            "web --gateway http://x",
            {},
            "--gateway='http://x': must be an address such as ws://127.0.0.1:8080/ws",
        ),
        ("fly", {}, "No such command 'fly'."),
    ],
)
def test_an_impossible_command_prints_one_line(command: str, settings: dict[str, str], line: str) -> None:
    status, output, errors = towpath(*command.split(" "), **settings)
    assert status in (1, 2)
    assert output == ""
    assert errors.startswith(f"towpath: {line}")
    assert errors.count("\n") == 1
