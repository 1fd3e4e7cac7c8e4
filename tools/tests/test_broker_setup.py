"""``towpath broker setup``, as an operator types it, against a RabbitMQ of its own."""

import json
import os
import re
import shlex
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from aiormq.exceptions import ChannelAccessRefused, DeliveryError
from yarl import URL

from towpath.servicekit.broker.interface import Queue
from towpath.servicekit.broker.rabbitmq.declaring import queue_arguments
from towpath.servicekit.installed import installed_services
from towpath.testkit.processes import Processes
from towpath.tools import broker_setup, definitions
from towpath.tools.broker_setup import BadSecrets, NoPassword, Wanted, differences, variable
from towpath.tools.definitions import BadAccount
from towpath.tools.rabbitmq_node import RabbitNode

SERVICES = [service.name for service in installed_services()]
NAMES = ["gateway", *SERVICES, "ingress", "backend", "ops"]


@pytest.fixture(autouse=True)
def no_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(broker_setup.PASSWORD):
            monkeypatch.delenv(name)


@pytest.fixture
async def node() -> AsyncIterator[RabbitNode]:
    async with RabbitNode() as node:
        yield node


async def setup(processes: Processes, *arguments: object, **passwords: str) -> tuple[int, str]:
    """The status of the command, and its output."""
    given = {f"broker_password_{name}": password for name, password in passwords.items()}
    running = processes.launch("towpath", "broker", "setup", *map(str, arguments), **given)
    return await running.ended(timeout=120), running.output


async def test_setup_gives_every_program_an_account(
    node: RabbitNode, processes: Processes, tmp_path: Path
) -> None:
    kept, ctl = tmp_path / "secrets", shlex.join(node.ctl_command)
    status, output = await setup(processes, "--check", "--ctl", ctl)
    assert status == 1
    assert "missing: users gateway" in output
    assert "also there: users towpath" in output
    assert "run `towpath broker setup`" in output.splitlines()[-1]

    status, output = await setup(processes, "--secrets", kept, "--ctl", ctl)
    assert (status, output) == (0, f"{len(NAMES)} accounts: {', '.join(NAMES)}\n")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    passwords = dict(line.split("=") for line in kept.read_text().splitlines())
    assert set(passwords) == {variable(name) for name in NAMES}
    assert min(map(len, passwords.values())) >= 40

    # The passwords work, and the permissions hold.
    url = URL(node.url()).with_user("chat").with_password(passwords[variable("chat")])
    async with await aio_pika.connect(str(url)) as connection:
        channel = await connection.channel()
        await channel.get_exchange("towpath.push", ensure=True)
        with pytest.raises(ChannelAccessRefused):
            await channel.declare_exchange("towpath.more")

    # Twice changes nothing, and the check agrees.
    before = kept.read_text()
    assert (await setup(processes, "--secrets", kept, "--ctl", ctl))[0] == 0
    assert kept.read_text() == before
    status, output = await setup(processes, "--check", "--ctl", ctl)
    assert (status, output) == (0, "also there: users towpath\nalso there: permissions towpath\n")


async def test_setup_names_a_permission_that_was_widened(
    node: RabbitNode, processes: Processes, tmp_path: Path
) -> None:
    ctl = shlex.join(node.ctl_command)
    assert (await setup(processes, "--secrets", tmp_path / "secrets", "--ctl", ctl))[0] == 0
    await node.ctl("set_permissions", "chat", ".*", ".*", ".*")
    await node.ctl("clear_topic_permissions", "backend", "towpath.push")
    status, output = await setup(processes, "--check", "--ctl", ctl)
    assert status == 1
    assert "differs: permissions chat: configure is '.*'" in output
    assert "missing: topic_permissions backend towpath.push" in output
    assert (await setup(processes, "--secrets", tmp_path / "secrets", "--ctl", ctl))[0] == 0
    assert (await setup(processes, "--check", "--ctl", ctl))[0] == 0


async def test_a_service_that_is_down_fills_its_own_queues_and_not_the_disk(
    node: RabbitNode, processes: Processes, tmp_path: Path
) -> None:
    ctl, body = shlex.join(node.ctl_command), os.urandom(500_000)
    most = 5_000_000
    ours = ("--secrets", tmp_path / "secrets", "--queue-max-bytes", most, "--ctl", ctl)
    # RabbitMQ applies the bound beside a policy of the operator's own, also beside a larger bound.
    await node.ctl("set_policy", "--priority", "9", "own", "^orders[.]", '{"max-length-bytes": 500000000}')

    async def until_refused(queue: str) -> int:
        """How many bytes it takes."""
        for number in range(2 * most // len(body)):
            try:
                await channel.default_exchange.publish(aio_pika.Message(body), queue)
            except DeliveryError:
                return number * len(body)
        return 2 * most

    async with await aio_pika.connect(node.url()) as connection:
        channel = await connection.channel()
        for queue in ("chat.commands.0", "orders.events", "backend.shop.orders"):
            await channel.declare_queue(queue, durable=True, arguments=queue_arguments(Queue(name=queue)))
        assert (await setup(processes, *ours))[0] == 0
        # RabbitMQ finds out with the message that is too many: https://www.rabbitmq.com/docs/maxlength
        assert most <= await until_refused("chat.commands.0") <= most + 2 * len(body)
        assert most <= await until_refused("orders.events") <= most + 2 * len(body)
        assert await until_refused("backend.shop.orders") == 2 * most

    status, output = await setup(processes, "--check", "--ctl", ctl)
    assert status == 1
    assert "differs: parameters operator_policy towpath-services: value is" in output
    assert (await setup(processes, "--check", *ours))[0] == 0


async def test_setup_writes_a_file_without_passwords(processes: Processes, tmp_path: Path) -> None:
    output = tmp_path / "definitions.json"
    passwords = {name: f"the-password-of-{name}" for name in NAMES}
    status, printed = await setup(processes, "--output", output, **passwords)
    assert status == 0
    text = output.read_text()
    read = json.loads(text)
    assert [user["name"] for user in read["users"]] == NAMES
    assert not any(password in text + printed for password in passwords.values())
    assert all(len(user["password_hash"]) == 48 for user in read["users"])
    assert (await setup(processes, "--output", tmp_path / "again.json", **passwords))[0] == 0
    assert (tmp_path / "again.json").read_text() == text


async def test_a_password_that_is_missing_is_named(processes: Processes, tmp_path: Path) -> None:
    status, output = await setup(processes, "--output", tmp_path / "definitions.json", gateway="x" * 20)
    assert status == 2
    assert output == (
        f"towpath: {variable(SERVICES[0])}: is not set; set it, or give --secrets a file to keep new "
        "passwords in\n"
    )


async def test_a_command_that_cannot_be_run_is_named(processes: Processes, tmp_path: Path) -> None:
    status, output = await setup(processes, "--check", "--ctl", tmp_path / "no-such-program")
    assert status == 1
    assert output.startswith("towpath: ")
    assert "no-such-program' cannot be run: No such file or directory" in output


# Accounts


def test_services_and_backends_elsewhere_have_accounts_too() -> None:
    wanted = Wanted(
        ["stock:stock:order.paid,stock.moved", "packer:pack:order.paid:order.packed"],
        ["shop:order,stock", "audit:"],
        ["shop"],
        [],
    )
    accounts = {account.name: account for account in wanted.accounts()}
    assert list(accounts) == ["gateway", *SERVICES, "stock", "packer", "ingress", "shop", "audit", "ops"]
    assert accounts["stock"] == definitions.service("stock", "stock", ["order.paid", "stock.moved"])
    assert accounts["packer"] == definitions.service("packer", "pack", ["order.paid"], ["order.packed"])
    assert accounts["shop"] == definitions.backend("shop", ["order", "stock"], kicks=True)
    assert accounts["audit"].topics["towpath.events"] == ("^$", "^$")
    assert {"chat", "order", "stock", "pack"} <= set(
        re.findall(r"\w+", accounts["ingress"].topics["towpath.events"][0])
    )


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [
        (Wanted(services=["stock"]), "write it as name:domain"),
        (Wanted(services=["chat:talk"]), "two programs would have the account 'chat'"),
        (Wanted(backends=["shop:session"]), "cannot publish session"),
        (Wanted(backends=["ops"]), "cannot be the name of an account"),
        (Wanted(backends=["ingress"]), "cannot be the name of an account"),
        (Wanted(kick=["shop"]), "'shop' is none of the backends"),
    ],
)
def test_accounts_that_cannot_be_are_refused(wanted: Wanted, problem: str) -> None:
    with pytest.raises(BadAccount, match=problem):
        wanted.accounts()


# Passwords


def test_new_passwords_are_kept_and_given_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts, kept = Wanted().accounts(), tmp_path / "secrets"
    monkeypatch.setenv(variable("chat"), "from-the-environment")
    first = broker_setup.passwords(accounts, kept)
    assert first["chat"] == "from-the-environment"
    assert "from-the-environment" not in kept.read_text()
    assert broker_setup.passwords(accounts, kept) == first
    # One more account is added to the file, and the others keep theirs.
    more = [*accounts, definitions.backend("shop")]
    assert broker_setup.passwords(more, kept) == {**first, "shop": broker_setup.passwords(more, kept)["shop"]}


def test_a_file_of_passwords_that_others_can_read_is_refused(tmp_path: Path) -> None:
    kept = tmp_path / "secrets"
    kept.write_text("TOWPATH_BROKER_PASSWORD_CHAT=known\n")
    kept.chmod(0o644)
    with pytest.raises(BadSecrets, match="can be read by others"):
        broker_setup.passwords(Wanted().accounts(), kept)


def test_a_file_of_passwords_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSecrets, match="cannot be written: No such file or directory"):
        broker_setup.passwords(Wanted().accounts(), tmp_path / "no-such-folder" / "secrets")


def test_an_empty_password_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(variable(name), "")
    with pytest.raises(NoPassword):
        broker_setup.passwords(Wanted().accounts(), None)


def test_equal_definitions_have_no_differences() -> None:
    wanted: dict[str, Any] = definitions.render(Wanted().accounts(), {})
    assert list(differences(wanted, wanted, "/")) == []
    # Another virtual host has nothing to do with it.
    elsewhere = {**wanted, "permissions": [*wanted["permissions"], {"user": "x", "vhost": "other"}]}
    assert list(differences(wanted, elsewhere, "/")) == []
