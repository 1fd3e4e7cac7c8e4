"""A refusal by RabbitMQ is reported in one line that names the setting, and ends a program at its start."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from yarl import URL

from towpath.servicekit.broker.interface import (
    Binding,
    BrokerRefused,
    BrokerState,
    Exchange,
    Inbox,
    Queue,
    Topology,
)
from towpath.servicekit.broker.rabbitmq import RabbitBroker
from towpath.servicekit.broker.rabbitmq.refusals import ClosedByBroker, is_refusal
from towpath.servicekit.runtime.exit_status import ExitStatus
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Processes, free_port
from towpath.testkit.rabbitmq import Rabbit
from towpath.tools.rabbitmq_node import RabbitControl

TOPICS: Final = Exchange("test.topics")
WORK: Final = Queue(name="test.work", bindings=[Binding(TOPICS.name, "work.#")])
PATIENCE: Final = 20.0


@dataclass
class Guest:
    """A user of one test's virtual host.

    Attributes:
        url: With the guest's name and password.
    """

    name: str
    vhost: str
    url: str
    control: RabbitControl

    def may(self, *, configure: str = ".*", write: str = ".*", read: str = ".*") -> None:
        """Have these rights in the virtual host."""
        names = [_binary(text) for text in (self.name, self.vhost, configure, write, read, "towpath")]
        self.control.evaluate(f"rabbit_auth_backend_internal:set_permissions({', '.join(names)})")


@pytest.fixture
async def guest(rabbitmq: Rabbit, rabbitmq_node: RabbitControl) -> AsyncIterator[Guest]:
    name, password = f"guest-{secrets.token_hex(4)}", "hunter2hunter2"
    words = ", ".join(_binary(text) for text in (name, password, "towpath"))
    rabbitmq_node.evaluate(f"rabbit_auth_backend_internal:add_user({words})")
    url = URL(rabbitmq.url)
    try:
        yield Guest(
            name, url.path.removeprefix("/"), str(url.with_user(name).with_password(password)), rabbitmq_node
        )
    finally:
        rabbitmq_node.evaluate(
            f"rabbit_auth_backend_internal:delete_user({_binary(name)}, {_binary('towpath')})"
        )


def _binary(text: str) -> str:
    return f'<<"{text}">>'


async def refusal(url: str, topology: Topology, *sources: Queue | Inbox) -> str:
    """The error of a program that cannot start."""

    async def start() -> None:
        async with asyncio.timeout(PATIENCE), RabbitBroker.connect(url, name="stranger") as broker:
            await broker.declare(topology)
            async with broker.subscribe(*sources, prefetch=1):
                pass

    with pytest.raises(BrokerRefused) as refused:
        await start()
    said = str(refused.value)
    assert said.startswith("TOWPATH_AMQP_URL: ")
    assert "\n" not in said
    assert "hunter2" not in said
    return said


# To get in


async def test_a_missing_virtual_host_is_named(rabbitmq: Rabbit) -> None:
    said = await refusal(str(URL(rabbitmq.url).with_path("/no-such-host")), Topology())
    assert "/no-such-host refused the virtual host 'no-such-host': " in said
    assert "vhost no-such-host not found" in said


async def test_a_forbidden_virtual_host_is_named(guest: Guest) -> None:
    said = await refusal(guest.url, Topology())
    assert f"refused the virtual host '{guest.vhost}': " in said
    assert f"refused for user '{guest.name}'" in said


async def test_a_wrong_password_is_reported_with_the_user_but_not_shown(guest: Guest) -> None:
    said = await refusal(str(URL(guest.url).with_password("hunter2")), Topology())
    assert f"refused user '{guest.name}' or the password: " in said


async def test_an_unknown_user_is_named(rabbitmq: Rabbit) -> None:
    said = await refusal(str(URL(rabbitmq.url).with_user("nobody")), Topology())
    assert "refused user 'nobody' or the password: " in said


@pytest.mark.parametrize(
    "text",
    [
        "NOT_ALLOWED - access to vhost 'v' refused for user 'u': connection limit (1) is reached",
        "NOT_ALLOWED - connection refused for user 'u': user connection limit (1) is reached",
        "INTERNAL_ERROR - access to vhost 'v' refused for user 'u': vhost 'v' is down",
    ],
)
def test_a_temporary_limit_is_not_a_refusal(text: str) -> None:
    assert not is_refusal(ClosedByBroker(530, text))
    assert is_refusal(ClosedByBroker(530, "NOT_ALLOWED - vhost v not found"))


async def test_a_program_waits_while_a_connection_limit_is_reached(
    rabbitmq_node: RabbitControl, guest: Guest
) -> None:
    guest.may()
    name, by = _binary(guest.name), _binary("towpath")
    limit = f'rabbit_auth_backend_internal:set_user_limits({name}, <<"{{\\"max-connections\\":0}}">>, {by})'
    rabbitmq_node.evaluate(limit)
    async with RabbitBroker.connect(guest.url, name="stranger", reconnect_max=0.1) as broker:
        await asyncio.sleep(0.5)  # several attempts, each refused
        assert broker.state is BrokerState.CONNECTING
        rabbitmq_node.evaluate(
            f'rabbit_auth_backend_internal:clear_user_limits({name}, <<"max-connections">>, {by})'
        )
        async with asyncio.timeout(PATIENCE):
            await broker.until_ready()


# Permissions


async def test_a_missing_right_to_configure_names_exchange_and_user(guest: Guest) -> None:
    guest.may(configure="^$")
    said = await refusal(guest.url, Topology([TOPICS]))
    assert f"user '{guest.name}' lacks the permission to configure the exchange 'test.topics'" in said
    assert f"in virtual host '{guest.vhost}'" in said


async def test_a_missing_right_to_configure_names_the_queue(guest: Guest) -> None:
    guest.may(configure="^test.topics$")
    said = await refusal(guest.url, Topology([TOPICS], [WORK]))
    assert "lacks the permission to configure the queue 'test.work'" in said


async def test_a_missing_right_to_write_names_the_queue_to_bind(guest: Guest) -> None:
    guest.may(write="^$")
    assert "lacks the permission to write the queue 'test.work'" in await refusal(
        guest.url, Topology([TOPICS], [WORK])
    )


async def test_a_missing_right_to_read_names_the_exchange_to_bind_to(guest: Guest) -> None:
    guest.may(read="^test.work$")
    assert "lacks the permission to read the exchange 'test.topics'" in await refusal(
        guest.url, Topology([TOPICS], [WORK])
    )


async def test_a_missing_right_to_read_names_the_queue_to_consume(guest: Guest) -> None:
    guest.may(read="^test.topics$")
    said = await refusal(guest.url, Topology([TOPICS], [WORK]), WORK)
    assert "lacks the permission to read the queue 'test.work'" in said


async def test_a_missing_right_names_the_inbox_of_a_gateway(guest: Guest) -> None:
    guest.may(configure="^test.topics$")
    said = await refusal(guest.url, Topology([TOPICS]), Inbox(name="gateway.one"))
    assert "lacks the permission to configure the queue 'gateway.one." in said


async def test_a_missing_right_to_write_names_the_exchange_to_publish_to(guest: Guest) -> None:
    guest.may(write="^test.work$")
    said = await refusal(guest.url, Topology([TOPICS], [WORK], writes=[TOPICS.name]))
    assert "lacks the permission to write the exchange 'test.topics'" in said


async def test_topic_permissions_do_not_fail_the_start(guest: Guest, rabbitmq_node: RabbitControl) -> None:
    guest.may()
    names = [guest.name, guest.vhost, TOPICS.name, "^nothing$", ".*", "towpath"]
    words = ", ".join(map(_binary, names))
    rabbitmq_node.evaluate(f"rabbit_auth_backend_internal:set_topic_permissions({words})")
    async with asyncio.timeout(PATIENCE), RabbitBroker.connect(guest.url, name="friend") as broker:
        await broker.declare(Topology([TOPICS], writes=[TOPICS.name]))


# Programs


async def test_a_failed_attempt_to_connect_is_one_line(processes: Processes, tmp_path: Path) -> None:
    process = processes.launch(
        "towpath-orders",
        amqp_url=f"amqp://127.0.0.1:{free_port()}/",
        database_url=f"sqlite:///{tmp_path}/x.db",
        reconnect_max=0.2,
    )
    await eventually(lambda: process.output.count("broker_unreachable") >= 3, timeout=60)
    lines = [json.loads(line) for line in process.output.splitlines()]
    attempts = [line for line in lines if "refused" in json.dumps(line)]
    assert {line["event"] for line in attempts} == {"broker_unreachable"}
    assert all(line["retry_in_s"] >= 0 for line in attempts)


@pytest.mark.parametrize("program", ["towpath-orders", "towpath-gateway"])
async def test_a_program_ends_with_status_77_and_one_line(
    processes: Processes, guest: Guest, program: str, tmp_path: object
) -> None:
    settings: dict[str, Any] = {
        "database_url": f"sqlite:///{tmp_path}/x.db",
        "auth_secret": secrets.token_urlsafe(32),
        "port": free_port(),
    }
    elsewhere = str(URL(guest.url).with_path("/elsewhere"))
    for url, said in (
        (elsewhere, "virtual host 'elsewhere'"),
        (guest.url, "lacks the permission to configure"),
    ):
        guest.may(configure="^$")
        process = processes.launch(program, amqp_url=url, **settings)
        assert await process.ended() == ExitStatus.REFUSED
        lines = [line for line in process.output.splitlines() if not line.startswith("{")]
        assert len(lines) == 1
        assert lines[0].startswith(f"{program}: TOWPATH_AMQP_URL: ")
        assert said in lines[0]
        assert "Traceback" not in process.output
