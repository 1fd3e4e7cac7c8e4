"""The commands of operators against a real installation: healthy, and with each thing broken that they must name.

Programs and commands log in to RabbitMQ under their own accounts, with the permissions of `towpath broker setup`.
"""

import asyncio
import json
import os
import re
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio

from towpath.protocol.envelope import make, now_ms
from towpath.protocol.routes import EVENTS, PUSH, SERVICE_REPLICA, command_queue, user_key
from towpath.servicekit.broker.interface import Message
from towpath.servicekit.broker.rabbitmq import RabbitBroker
from towpath.testkit.client import WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Process, Processes, free_port
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.rights import Rights
from towpath.testkit.system import url_of
from towpath.testkit.tokens import AUTH_SETTINGS, a_token
from towpath.tools.rabbitmq_node import RabbitControl

from ..snippets import blocks_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT: Final = Path(__file__).parents[2]
PATIENCE: Final = 180.0
SECRET: Final = secrets.token_urlsafe(48)


class Installation:
    """RabbitMQ, two gateways, chat and orders, with the accounts of `towpath broker setup`.

    Attributes:
        everything: The address of RabbitMQ, with an account that may do everything.
        gateways: Their processes, by id.
    """

    def __init__(self, rabbitmq: Rabbit, rights: Rights, processes: Processes, folder: Path) -> None:
        self.rabbitmq = rabbitmq
        self.rights = rights
        self.processes = processes
        self.folder = folder
        self.everything = rabbitmq.url
        self.gateways: dict[str, Process] = {}
        self._ran: list[list[str]] = []

    def has_run(self, command: list[str]) -> bool:
        """Whether a command of these words was run, with these options or more."""
        return any(_words(ran) == _words(command) and _options(command) <= _options(ran) for ran in self._ran)

    def launch_gateway(self, name: str, *prefix: str, **settings: Any) -> Process:
        """One more gateway; ``prefix`` is a command in front of the program."""
        program, *rest = *prefix, "towpath-gateway"
        chosen = {
            "port": free_port(),
            "gateway_id": name,
            "auth_secret": SECRET,
            "amqp_url": self.rights.url(self.everything, "gateway"),
            "allowed_origins": "*",
            "max_connections": 2_000,
            "handshakes_max": 200,
            "reconnect_max": 1.0,
            "alive_interval": 1.0,
            **settings,
        }
        process = self.processes.launch(program, *rest, name=name, **chosen)
        self.gateways[name] = process
        return process

    def launch_service(self, name: str, *, shown_as: str = "") -> Process:
        """A service, on the database that it had before."""
        return self.processes.launch(
            f"towpath-{name}",
            name=shown_as or name,
            amqp_url=self.everything,
            database_url=f"sqlite:///{self.folder}/{name}.db",
            reconnect_max=1.0,
        )

    async def run(self, *arguments: str, account: str = "ops", **settings: Any) -> tuple[int, str]:
        """A command of operators; its exit status, and all it printed."""
        running = self.launch(*arguments, account=account, **settings)
        return await running.ended(timeout=PATIENCE), running.output

    def launch(self, *arguments: str, account: str = "ops", **settings: Any) -> Process:
        """Start a command without waiting for its end."""
        self._ran.append(list(arguments))
        given = {"amqp_url": self.rights.url(self.everything, account), **settings}
        return self.processes.launch("towpath", *arguments, **given)

    def connect(self, user: str, gateway: str = "gw-1") -> Any:
        """A connection of a user."""
        return WireClient.connect(url_of(self.gateways[gateway]), token=a_token(user, secret=SECRET))

    async def publish(self, exchange: str, key: str, body: bytes) -> None:
        """Publish as a program that may do everything."""
        async with RabbitBroker.connect(self.everything, name="test") as broker:
            await broker.until_ready()
            await broker.publish(exchange, key, Message(body=body, persistent=False))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def installation(
    rabbitmq_node: RabbitControl, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Installation]:
    """All of it, ready."""
    rights = Rights()
    async with Rabbit.on(rabbitmq_node, rights) as rabbitmq:
        with Processes(rights) as processes:
            made = Installation(rabbitmq, rights, processes, tmp_path_factory.mktemp("services"))
            programs = [made.launch_gateway("gw-1"), made.launch_gateway("gw-2")]
            programs += [made.launch_service("chat"), made.launch_service("orders")]
            await asyncio.gather(*(program.ready(timeout=PATIENCE) for program in programs))
            yield made


def _options(command: list[str]) -> set[str]:
    return {word for word in command if word.startswith("--")}


def _words(command: list[str]) -> list[str]:
    """The command, and the kind of what it taps."""
    first = next((at for at, word in enumerate(command) if word.startswith("--")), len(command))
    words = [word.partition(":")[0] for word in command[:first]]
    # Names of services behind `topology check` are its arguments.
    return words[:2]


def objects(output: str) -> list[dict[str, Any]]:
    """The JSON objects among the lines of an output."""
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


async def has_printed(process: Process, text: str) -> None:
    """Wait until a command has printed ``text``."""
    await eventually(lambda: text in process.output, timeout=PATIENCE)


async def first_error(
    installation: Installation, check: str, *arguments: str, **settings: Any
) -> dict[str, Any]:
    """The first finding of `towpath doctor`, which must be an error of this check.

    It is asked three times at most: on a busy machine a program may answer too late, which the doctor names as well.
    """
    output = ""
    for _ in range(3):
        status, output = await installation.run("doctor", "--json", *arguments, **settings)
        if (found := objects(output)) and found[0]["check"] == check:
            assert (status, found[0]["level"]) == (1, "error")
            assert found[0]["remedy"]
            return found[0]
    raise AssertionError(f"{check} is not the first finding: {output}")


@asynccontextmanager
async def also(installation: Installation, name: str, *prefix: str, **settings: Any) -> AsyncIterator[None]:
    """One more gateway meanwhile."""
    process = installation.launch_gateway(name, *prefix, **settings)
    await process.ready(timeout=PATIENCE)
    try:
        yield
    finally:
        del installation.gateways[name]
        await process.terminate()


# Healthy


async def test_status_shows_gateways_and_who_holds_which_partition(installation: Installation) -> None:
    async with installation.connect("ana"), installation.connect("ben", "gw-2"):
        status, output = await installation.run(
            "status", "--json", "--admin", installation.gateways["gw-1"].admin_url
        )
    assert status == 0, output
    [told] = objects(output)
    assert told["broker"].startswith("RabbitMQ ")
    assert (told["problems"], told["blocked"], told["silent_gateways"]) == ([], False, [])
    assert {one["gateway"]: one["connections"] for one in told["gateways"]} == {"gw-1": 1, "gw-2": 1}
    services = {one["service"]: one for one in told["services"]}
    for name in ("chat", "orders"):
        [(replica, held)] = services[name]["replicas"].items()
        assert held == 9
        assert {holder for queue in services[name]["queues"] for holder in queue["holders"]} == {replica}
        assert (services[name]["unheld"], services[name]["parked"]) == ([], 0)
    assert not services["inventory"]["has_run"]
    [page] = told["admin"]
    assert page["ready"]
    assert page["metrics"]["connection_active"] == 1


async def test_status_is_a_table_for_people(installation: Installation) -> None:
    status, output = await installation.run("status")
    assert status == 0, output
    assert "All of it works." in output
    [row] = [line.split() for line in output.splitlines() if line.startswith("orders ")]
    assert row[2:6] == ["1", "0", "0", "0"], output
    assert row[6:15] == [*map(str, range(8)), "events"]


async def test_a_watch_ends_after_its_seconds(installation: Installation) -> None:
    status, output = await installation.run("status", "--watch", "--every", "0.5", "--seconds", "1", "--json")
    assert status == 0
    assert len(objects(output)) >= 1
    assert all(told["problems"] == [] for told in objects(output))


async def test_the_doctor_finds_nothing_wrong_with_a_healthy_installation(installation: Installation) -> None:
    status, output = await installation.run("doctor", "--service", "chat", auth_secret=SECRET)
    assert status == 0, output
    assert "wrong" not in output.replace("Nothing is wrong", "")
    assert "Nothing is wrong: RabbitMQ " in output
    assert "2 gateways, 2 services" in output


async def test_connections_that_would_hear_a_push_are_named_and_why_others_would_not(
    installation: Installation,
) -> None:
    async with installation.connect("ana") as ana:
        welcome = await ana.next("session.welcome")
        await ana.request("chat.join", {"room": "harbour"})
        status, output = await installation.run("who", "--user", "ana", "--json")
        assert status == 0, output
        [told] = objects(output)
        [connection] = told["connections"]
        assert connection["connection_id"] == welcome["data"]["connection_id"]
        assert (connection["gateway"], connection["hears"]) == ("gw-1", True)
        assert {one["gateway"]: one["connections"] for one in told["gateways"]} == {"gw-1": 1, "gw-2": 0}
        assert (await installation.run("who", "--user", "ana", "--group", "chat:harbour"))[0] == 0
        status, output = await installation.run("who", "--user", "ana", "--group", "chat:lock-7")
        assert status == 1
        assert "its service has not subscribed it to chat:lock-7" in output
    status, output = await installation.run("who", "--user", "nils")
    assert status == 1
    assert "nils is not connected: a push is dropped" in output


async def test_connections_are_counted_for_each_gateway(installation: Installation) -> None:
    async with (
        installation.connect("ana"),
        installation.connect("ana", "gw-2"),
        installation.connect("ben", "gw-2"),
    ):
        status, output = await installation.run("connections", "--json")
    assert status == 0
    told = {one["gateway"]: (one["connections"], one["users"]) for one in objects(output)}
    assert told == {"gw-1": (1, 1), "gw-2": (2, 2)}


# Taps


async def test_a_tap_shows_envelopes_to_a_user_without_their_texts(installation: Installation) -> None:
    push = make("chat.message", {"text": "a secret text", "seq": 5}, msg_id="m-1").to_json()
    for arguments, shown in (((), False), (("--show-data",), True)):
        tapping = installation.launch("tap", "user:ana.b", "--json", *arguments)
        await has_printed(tapping, "tapping")
        for user in ("ana.b", "ben"):
            await installation.publish(PUSH, user_key(user), push)
        await has_printed(tapping, "m-1")
        assert await _interrupted(tapping) == 0
        [told] = objects(tapping.output)
        assert (told["action"], told["msg_id"], told["kind"]) == ("chat.message", "m-1", "push")
        assert told["routing_key"] == "user.ana%2Eb"
        assert ("a secret text" in tapping.output) is shown
        if not shown:
            assert told["data"] == {"text": "text of 13", "seq": "number"}


async def test_a_tap_of_a_domain_shows_its_commands_and_events(installation: Installation) -> None:
    tapping = installation.launch("tap", "domain:order", "--json")
    await has_printed(tapping, "tapping")
    async with installation.connect("ana") as ana:
        order = f"O-{secrets.token_hex(4)}"
        await ana.request("order.submit", {"order_id": order, "amount": "9.90", "currency": "EUR"})
    await eventually(lambda: len(objects(tapping.output)) >= 2, timeout=PATIENCE)
    assert await _interrupted(tapping) == 0
    told = {(one["kind"], one["action"]): one for one in objects(tapping.output)}
    command = told["command", "order.submit"]
    assert (command["user_id"], command["gateway_id"]) == ("ana", "gw-1")
    assert ("event", "order.created") in told
    assert order not in tapping.output


async def test_a_tap_prints_no_more_than_its_rate_and_counts_the_rest(installation: Installation) -> None:
    tapping = installation.launch("tap", "group:chat:flood", "--json", "--rate", "5", "--seconds", "3")
    await has_printed(tapping, "tapping")
    one = make("chat.message", {"text": "x"}).to_json()
    await installation.publish(PUSH, "group.chat:flood", b"[" + b",".join([one] * 100) + b"]")
    assert await tapping.ended(timeout=PATIENCE) == 0
    assert len(objects(tapping.output)) == 5
    assert "95 more were not shown" in tapping.output


async def test_a_domain_whose_service_has_no_queues_is_not_tapped(installation: Installation) -> None:
    status, output = await installation.run("tap", "domain:inventory", "--seconds", "1")
    assert status == 1
    assert "inventory.commands.0 does not exist" in output
    assert "no service gets their messages" in output


# Topology


async def test_topology_names_what_is_missing_and_what_differs(installation: Installation) -> None:
    assert (await installation.run("topology", "check", "chat", "orders"))[0] == 0
    status, output = await installation.run("topology", "check", "inventory", "--json")
    assert status == 1
    assert command_queue("inventory", 3) in {one["name"] for one in objects(output)}
    status, output = await installation.run("topology", "diff", "orders", account="orders")
    assert status == 0, output
    status, output = await installation.run(
        "topology", "diff", "orders", account="orders", queue_max_length=5
    )
    assert status == 1
    assert (
        "~ queue orders.commands.0: differs: x-max-length is '100000', and this version needs '5'" in output
    )
    status, output = await installation.run("topology", "diff", "orders", queue_max_length=5)
    assert status == 0
    assert "this account may not compare its arguments" in output


# Broken


async def test_the_doctor_names_an_account_that_lacks_permissions(installation: Installation) -> None:
    found = await first_error(installation, "permission", account="backend")
    assert "the account 'backend' may not do what operators' commands need" in found["problem"]
    assert "towpath broker setup" in found["remedy"]


async def test_the_doctor_names_a_wrong_password(installation: Installation) -> None:
    url = installation.rights.url(installation.everything, "ops").replace("ops:", "ops:x")
    found = await first_error(installation, "refused", amqp_url=url)
    assert "user 'ops' or the password" in found["problem"]


async def test_the_doctor_names_a_development_secret(installation: Installation) -> None:
    found = await first_error(installation, "secret", development="1")
    async with also(installation, "gw-dev", host="127.0.0.1", **AUTH_SETTINGS):
        found = await first_error(installation, "secret")
        assert "gateway gw-dev runs in development mode" in found["problem"]


async def test_the_doctor_names_a_gateway_with_few_descriptors(installation: Installation) -> None:
    async with also(installation, "gw-few", "prlimit", "--nofile=300:300"):
        found = await first_error(installation, "descriptors")
        assert "gateway gw-few may open 300 files" in found["problem"]
        assert "LimitNOFILE" in found["remedy"]


async def test_the_doctor_names_a_wrong_clock(installation: Installation) -> None:
    data = {"service": "weather", "replica": "behind", "queues": [], "leaves": False}
    event = json.loads(make(SERVICE_REPLICA, data).to_json())

    async def announce() -> None:
        while True:
            event["timestamp"] = now_ms() - 90_000
            await installation.publish(EVENTS, SERVICE_REPLICA, json.dumps(event).encode())
            await asyncio.sleep(0.1)

    announcing = asyncio.create_task(announce())
    try:
        found = await first_error(installation, "clock")
    finally:
        announcing.cancel()
        await asyncio.gather(announcing, return_exceptions=True)
    # By as much as the announcement was late.
    assert re.search(r"the clock of service weather \(replica behind\) is 9\d s behind", found["problem"])


async def test_the_doctor_names_a_misspelt_setting(installation: Installation) -> None:
    found = await first_error(installation, "setting", amqp_uri="x")
    assert "TOWPATH_AMQP_URI is not a setting" in found["problem"]
    assert found["remedy"] == "write TOWPATH_AMQP_URL"


async def test_the_doctor_advises_about_a_setting_that_no_program_reads(installation: Installation) -> None:
    status, output = await installation.run("doctor", "--json", unheard_of="1", auth_secret=SECRET)
    assert status == 0
    found = {one["check"]: one for one in objects(output)}["unknown_setting"]
    assert found["level"] == "warning"
    assert "TOWPATH_UNHEARD_OF" in found["problem"]


async def test_an_old_broker_is_named_before_anything_else(installation: Installation) -> None:
    async with an_old_broker() as port:
        found = await first_error(installation, "old_broker", amqp_url=f"amqp://ops:x@127.0.0.1:{port}/")
        assert "RabbitMQ 3.8.9 is too old" in found["problem"]


async def test_a_missing_service_is_named_first(installation: Installation) -> None:
    [orders] = [one for one in installation.processes if one.name == "orders"]
    await orders.terminate()
    try:
        found = await first_error(installation, "service")
        assert "orders does not run" in found["problem"]
        assert "start towpath-orders" in found["remedy"]
        status, output = await installation.run("status", "--json")
        assert status == 1
        assert objects(output)[0]["problems"] == [
            "service orders: does not run: no replica consumes its queues"
        ]
    finally:
        await installation.launch_service("orders").ready(timeout=PATIENCE)


async def test_a_service_that_never_ran_is_named_if_it_must_run(installation: Installation) -> None:
    found = await first_error(installation, "service", "--service", "inventory")
    assert found["problem"] == "service inventory has never run on this broker"


async def test_a_gateway_is_drained_by_its_id(installation: Installation) -> None:
    process = installation.launch_gateway("gw-3")
    await process.ready(timeout=PATIENCE)
    async with installation.connect("ana", "gw-3") as ana:
        status, output = await installation.run("drain", "--gateway", "gw-3", "--json")
        assert status == 0, output
        assert [told.get("ended", False) for told in objects(output)] == [False, True]
        assert (await ana.next("session.closing"))["data"]["code"] == 1012
    assert await process.ended() == 0
    del installation.gateways["gw-3"]
    status, output = await installation.run("drain", "--gateway", "gw-3")
    assert status == 1
    assert "no gateway 'gw-3' is on this broker" in output


# Rolling restarts; tests/faults/test_rolling.py has those that succeed.


async def test_a_rolling_restart_begins_only_if_there_are_replicas_that_work(
    installation: Installation,
) -> None:
    for arguments, status, text in (
        (["orders"], 2, "'orders' is restarted by your own commands: give one for each replica"),
        (["orders", "--each", "false"], 1, "1 replica of orders works, and its work would wait"),
        (["weather", "--each", "false"], 1, "weather: has never run on this broker; nothing was restarted"),
        (["gateway", *["--each", "false"] * 3], 2, "3 commands for 2 replicas of gateway"),
    ):
        ended, output = await installation.run("rolling", *arguments)
        assert (ended, output.count("\n")) == (status, 1), output
        assert text in output


async def test_a_rolling_restart_ends_at_the_first_replica_that_does_not_return(
    installation: Installation,
) -> None:
    [first] = [one for one in installation.processes if one.name == "orders" and one.status is None]
    second = installation.launch_service("orders", shown_as="orders 2")
    await second.ready(timeout=PATIENCE)
    each = ["--each", f"kill {second.pid}", "--each", f"kill {first.pid}"]
    status, output = await installation.run(
        "rolling", "orders", *each, "--json", "--seconds", "5", "--pause", "0"
    )
    assert status == 1, output
    # On a busy machine it may take longer than that until it has ended.
    ended = rf"(ended, and|no replica of orders has ended) 5 s after 'kill {second.pid}'"
    assert re.search(rf"{ended}.*; 0 restarted before, the others are untouched\n", output), output
    assert objects(output) == []
    assert await second.ended() == 0
    assert first.status is None


async def test_a_rolling_restart_ends_at_a_command_that_fails_hangs_or_restarts_nothing(
    installation: Installation,
) -> None:
    for command, text in (
        ("echo no such container >&2; exit 3", "ended with status 3; 0 restarted before"),
        ("sleep 600", "'sleep 600' still runs after 1 s and was ended; 0 restarted before"),
        ("true", "no replica of gateway has ended 1 s after 'true'; 0 restarted before"),
    ):
        status, output = await installation.run("rolling", "gateway", "--each", command, "--seconds", "1")
        assert status == 1, output
        assert output.splitlines()[0] == f"1 of 1: {command}"
        assert text in output.splitlines()[-1]
        assert ("no such container\n" in output) is command.startswith("echo")
    assert all(installation.gateways[name].status is None for name in ("gw-1", "gw-2"))


async def test_a_blocked_broker_is_named_first(installation: Installation) -> None:
    await installation.rabbitmq.block()
    try:
        found = await first_error(installation, "blocked")
        assert "a memory or disk alarm" in found["problem"]
        status, output = await installation.run("status", "--json")
        assert status == 1
        [told] = objects(output)
        assert told["blocked"]
        # Queues are shown all the same.
        assert {one["service"]: one["unheld"] for one in told["services"]}["orders"] == []
    finally:
        await installation.rabbitmq.unblock()


async def test_a_broker_that_is_down_is_named_first(installation: Installation) -> None:
    url = f"amqp://ops:x@127.0.0.1:{free_port()}/"
    found = await first_error(installation, "unreachable", amqp_url=url)
    assert "nothing answers at 127.0.0.1" in found["problem"]
    for command in (("status",), ("who", "--user", "ana"), ("connections",), ("topology", "check")):
        status, output = await installation.run(*command, amqp_url=url)
        assert status == 2
        assert output.startswith("towpath: TOWPATH_AMQP_URL=")
        assert output.count("\n") == 1


# The page


async def test_each_command_of_the_page_works(installation: Installation) -> None:
    """Those that no test above has run with the same options."""
    page = (ROOT / "docs/operations/commands.md").read_text()
    lines = [
        line.partition("#")[0].split() for block in blocks_of(page, "sh") for line in block.text.splitlines()
    ]
    assert len(lines) > 12
    assert {line[0] for line in lines} == {"towpath"}
    # Rolling restarts need a supervisor: tests/faults/test_rolling.py runs those of the page.
    left = [line[1:] for line in lines if line[1] != "rolling" and not installation.has_run(line[1:])]
    names = {"http://gateway-1:9090": installation.gateways["gw-1"].admin_url, "30": "0.2"}
    names["--watch"] = "--watch --seconds 1"
    if "drain" in {command[0] for command in left}:
        await installation.launch_gateway("gw-9").ready(timeout=PATIENCE)
        del installation.gateways["gw-9"]
        names["gw-2"] = "gw-9"
    failed = []
    async with installation.connect("ana") as ana:
        await ana.request("chat.join", {"room": "harbour"})
        for command in left:
            typed = " ".join(names.get(word, word) for word in command).split()
            status, output = await installation.run(*typed, auth_secret=SECRET)
            if status != (0 if command != ["topology", "check"] else 1):  # not all services have run here
                failed.append((command, output))
    assert failed == []


# Last: from now on queues exist of a service that does not run, which status and doctor name.


async def test_topology_applies_what_is_missing_and_changes_nothing_else(installation: Installation) -> None:
    status, output = await installation.run("topology", "apply", "notifications")
    assert status == 2
    assert "user 'ops' lacks the permission to configure" in output
    status, output = await installation.run("topology", "apply", "notifications", account="notifications")
    assert status == 0, output
    assert "+ queue notifications.commands.0: made" in output
    assert (await installation.run("topology", "check", "notifications"))[0] == 0
    status, output = await installation.run("topology", "apply", "notifications", account="notifications")
    assert (status, "made" in output) == (0, False)


async def _interrupted(process: Process) -> int:
    os.kill(process.pid, signal.SIGINT)
    return await process.ended(timeout=PATIENCE)


@asynccontextmanager
async def an_old_broker() -> AsyncIterator[int]:
    """A server that greets as RabbitMQ 3.8.9 does, and does nothing else; its port."""
    properties = _table({b"product": b"RabbitMQ", b"version": b"3.8.9"})
    method = b"\x00\x0a\x00\x0a\x00\x09" + properties + _long(b"PLAIN") + _long(b"en_US")
    greeting = b"\x01\x00\x00" + len(method).to_bytes(4) + method + b"\xce"

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        writer.write(greeting)
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def _long(text: bytes) -> bytes:
    return len(text).to_bytes(4) + text


def _table(fields: dict[bytes, bytes]) -> bytes:
    # https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf, section 4.2.5.5
    return _long(b"".join(bytes([len(name)]) + name + b"S" + _long(value) for name, value in fields.items()))
