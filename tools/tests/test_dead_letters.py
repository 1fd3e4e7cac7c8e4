"""``towpath dead-letters``, as typed, on a real RabbitMQ; and what it makes of whatever is parked."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.protocol.envelope import make, now_ms
from towpath.protocol.messages import Session, encode, join_batch, wrap_command
from towpath.protocol.routes import dead_queue
from towpath.servicekit.broker.interface import Delivery, HeaderValue, Message, Queue, Topology
from towpath.servicekit.broker.memory_message import HeldMessage
from towpath.servicekit.broker.memory_queue import MemoryQueue, QueueConsumer
from towpath.servicekit.broker.memory_vhost import VirtualHost
from towpath.servicekit.broker.rabbitmq import RabbitBroker
from towpath.servicekit.messaging import dead_letters
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Processes
from towpath.testkit.rabbitmq import Rabbit
from towpath.tools.parked import Parked, Wanted, read
from towpath.tools.times import BadTime, since

ORIGIN: Final = Queue(
    name="orders.commands.3", bindings=[dead_letters.way_back("orders", "orders.commands.3")]
)
DEAD: Final = dead_queue("orders")
TRACE: Final = f"00-{'ab' * 16}-{'cd' * 8}-00"
NONE: Final[Mapping[str, HeaderValue]] = {}
MANY: Final = 600  # messages: at 20 a second they last until a test that watches the tool has seen it at work
NOW: Final = datetime(2026, 11, 23, 12, tzinfo=UTC)


def a_command(msg_id: str, *, action: str = "order.submit", user: str = "ana") -> bytes:
    session = Session(user_id=user, connection_id="c-1", gateway_id="gw-1")
    return wrap_command(encode(session), make(action, {"order_id": msg_id}, msg_id=msg_id).to_json())


def headers(reason: str = "failed", more: Mapping[str, HeaderValue] = NONE) -> dict[str, HeaderValue]:
    carried = json.dumps([{"at": now_ms(), "error": "ValueError: no", "where": "orders.handlers.submit:7"}])
    return {
        "x-reason": reason,
        "x-error": "ValueError: no",
        "x-queue": ORIGIN.name,
        "x-routing-key": "order.3",
        "x-attempt": 4,
        "x-attempts": carried,
        "x-first-failed-at": now_ms(),
        "traceparent": TRACE,
        **more,
    }


def a_parked(body: bytes, carried: Mapping[str, Any] = NONE) -> Parked:
    """The entry for a message with these headers."""
    delivered: list[Delivery] = []
    queue = MemoryQueue(DEAD, Queue(name=DEAD), VirtualHost())
    queue.attach(QueueConsumer(queue, prefetch=1, deliver=delivered.append))
    queue.push(HeldMessage(body, DEAD, "order.3", True, "gateway", carried))
    return read(delivered[0])


# Parked messages


@pytest.mark.parametrize(
    "forged", ["chat.commands.3", "towpath.push", "gateway.gw-1", "", "orders.commands.99"]
)
def test_no_header_makes_a_replay_reach_a_queue_of_another_service(forged: str) -> None:
    carried = headers(more={"x-queue": forged, "x-first-death-queue": forged})
    assert a_parked(a_command("m-1"), carried).queue == ""


def test_an_undecodable_message_is_shown_with_its_reason() -> None:
    parked = a_parked(b"{}", {"x-undecodable": "timestamp: not a time in seconds"})
    assert (parked.reason, parked.error) == (
        "unreadable",
        "it cannot be decoded: timestamp: not a time in seconds",
    )


def test_a_parked_command_shows_its_action_and_its_user() -> None:
    parked = a_parked(a_command("m-1"), headers("conflict"))
    assert (parked.id, parked.actions, parked.users, parked.reason) == (
        "m-1",
        "order.submit",
        "ana",
        "conflict",
    )
    assert (parked.queue, parked.routing_key, parked.tries, parked.replayed) == (
        ORIGIN.name,
        "order.3",
        4,
        0,
    )
    assert parked.as_dict()["trace_id"] == "ab" * 16


def test_a_parked_event_shows_its_user() -> None:
    parked = a_parked(make("order.paid", {"order_id": "O1", "user_id": "ben"}, msg_id="e-1").to_json())
    assert (parked.id, parked.actions, parked.users) == ("e-1", "order.paid", "ben")


def test_a_message_parked_by_rabbitmq_is_identified_by_its_queue() -> None:
    died = {"x-first-death-reason": "delivery_limit", "x-first-death-queue": ORIGIN.name}
    body = join_batch([a_command("m-1"), a_command("m-2", user="ben")])
    parked = a_parked(body, {**died, "x-death": [{"time": NOW, "queue": ORIGIN.name}]})
    assert (parked.reason, parked.queue, parked.ids) == ("crashed", ORIGIN.name, {"m-1", "m-2"})
    assert (parked.users, parked.actions) == ("ana +1", "order.submit")
    assert parked.parked_at == int(NOW.timestamp() * 1000)


def test_an_unreadable_message_has_a_name() -> None:
    one, other = a_parked(b"\xff\x00"), a_parked(b"no json")
    assert one.id.startswith("@")
    assert one.id != other.id
    assert one.id == a_parked(b"\xff\x00").id


def test_a_replayed_message_has_the_same_body_and_fresh_headers() -> None:
    parked = a_parked(a_command("m-1"), headers(more={"x-replayed": 1}))
    again = parked.again()
    assert again.body == parked.body
    assert again.headers == {"x-replayed": 2, "x-routing-key": "order.3", "traceparent": TRACE}
    assert again.app_id == "gateway"


HEADER: Final = (
    st.none() | st.integers() | st.text() | st.binary() | st.lists(st.dictionaries(st.text(), st.text()))
)


@given(
    st.binary() | st.text().map(str.encode) | st.just(b"[" * 5000) | st.just(b'{"envelope": 3, "data": []}'),
    st.dictionaries(
        st.sampled_from(
            ["x-reason", "x-queue", "x-attempts", "x-attempt", "x-death", "x-replayed", "traceparent"]
        ),
        HEADER,
    ),
)
def test_any_parked_message_can_be_listed(body: bytes, carried: dict[str, Any]) -> None:
    parked = a_parked(body, carried)
    assert parked.id
    json.dumps(parked.as_dict())
    assert parked.again().body == body


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        (Wanted(), True),
        (Wanted(ids=frozenset({"m-1", "m-9"})), True),
        (Wanted(ids=frozenset({"m-9"})), False),
        (Wanted(reason="failed", action="order.submit", user="ana"), True),
        (Wanted(reason="hung"), False),
        (Wanted(action="order.cancel"), False),
        (Wanted(user="ben"), False),
        (Wanted(since=0), True),
        (Wanted(since=now_ms() + 86_400_000), False),
    ],
)
def test_a_message_must_match_all_given_filters(wanted: Wanted, fits: bool) -> None:
    assert wanted.fits(a_parked(a_command("m-1"), headers())) is fits


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("90s", "2026-11-23T11:58:30+00:00"),
        ("30m", "2026-11-23T11:30:00+00:00"),
        ("2h", "2026-11-23T10:00:00+00:00"),
        ("7d", "2026-11-16T12:00:00+00:00"),
        ("2026-11-23", "2026-11-23T00:00:00+00:00"),
        ("2026-11-23T10:30+02:00", "2026-11-23T08:30:00+00:00"),
    ],
)
def test_since_is_a_duration_or_a_date(text: str, at: str) -> None:
    assert since(text, now=NOW) == int(datetime.fromisoformat(at).timestamp() * 1000)


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2", "-1h", "999999d", "2026-13-01", "0001-01-01T00:00+23:59"]
)
def test_an_unreadable_time_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(BadTime, match="--since"):
        since(text, now=NOW)


# As typed


class Desk:
    """A dead queue, the queue it fills from, and the tool."""

    def __init__(self, rabbitmq: Rabbit, processes: Processes, broker: RabbitBroker) -> None:
        self._rabbitmq = rabbitmq
        self._processes = processes
        self.broker = broker

    async def park(self, *bodies: bytes, carried: Mapping[str, HeaderValue] = NONE) -> None:
        for body in bodies:
            message = Message(body=body, app_id="gateway", headers=carried or headers())
            await self.broker.publish("", DEAD, message, mandatory=True)

    async def waiting(self, queue: str) -> list[str]:
        """The ids of what waits in a queue."""
        async with self.broker.browse(queue) as looking:
            return [read(delivery).id async for delivery in looking]

    async def tool(self, *arguments: str, **settings: Any) -> tuple[int, str]:
        """Its exit status, and all it said."""
        given = {"amqp_url": self._rabbitmq.url, **settings}
        running = self._processes.launch("towpath", "dead-letters", *arguments, **given)
        return await running.ended(), running.output

    def launch(self, *arguments: str) -> Any:
        return self._processes.launch("towpath", "dead-letters", *arguments, amqp_url=self._rabbitmq.url)


@pytest.fixture
async def desk(rabbitmq: Rabbit, processes: Processes) -> AsyncIterator[Desk]:
    async with RabbitBroker.connect(rabbitmq.url, name="test", reconnect_max=0.5) as broker:
        dead = dead_letters.queues("orders", 1000)
        await broker.declare(Topology(dead_letters.exchanges("orders"), [ORIGIN, *dead]))
        yield Desk(rabbitmq, processes, broker)


async def test_list_shows_parked_messages_and_changes_nothing(desk: Desk) -> None:
    await desk.park(a_command("m-1"), a_command("m-2", user="ben"))
    await desk.park(b"\xff no json", carried=headers("unreadable"))
    for _ in range(2):
        status, said = await desk.tool("list")
        assert status == 0
        assert [line.split()[2] for line in said.splitlines()[1:4]] == ["failed", "failed", "unreadable"]
        assert said.splitlines()[-1] == "orders.dead: 3 of 3"
    status, said = await desk.tool("list", "orders", "--user", "ben", "--json")
    assert [json.loads(line)["msg_id"] for line in said.splitlines()] == ["m-2"]
    status, said = await desk.tool("list", "orders", "--limit", "1")
    assert said.splitlines()[-1] == "orders.dead: 3 of 3, the first 1 shown"
    status, said = await desk.tool("show", "orders", "m-2")
    assert status == 0
    for carried in ("m-2", "ben", "ab" * 16, "orders.handlers.submit:7", '"order_id": "m-2"', ORIGIN.name):
        assert carried in said
    assert (await desk.waiting(DEAD))[:2] == ["m-1", "m-2"]  # in their order


async def test_control_characters_in_messages_do_not_reach_the_terminal(desk: Desk) -> None:
    await desk.park(
        b"\x1b[2J\x07 [bold]x", carried=headers("unreadable", {"x-error": "a\x1b]0;title\x07\nb [red]"})
    )
    name = (await desk.waiting(DEAD))[0]
    for command in (["list", "orders"], ["show", "orders", name]):
        status, said = await desk.tool(*command)
        assert status == 0
        assert not {"\x1b", "\x07"} & set(said)
    assert "[bold]x" in said


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
async def test_a_terminal_without_a_character_shows_the_others(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    await desk.park(a_command("m-1", user="安娜"), carried={"x-error": "a\x1bb"})
    status, said = await desk.tool("list", "orders")
    assert (status, said.splitlines()[-1]) == (0, "orders.dead: 1 of 1")
    assert r"\u5b89\u5a1c" in said
    status, said = await desk.tool("show", "orders", "m-1")
    assert status == 0
    assert r"\u5b89\u5a1c" in said


async def test_replay_publishes_to_the_original_queue_and_reports_it(desk: Desk, tmp_path: Path) -> None:
    await desk.park(a_command("m-1"), a_command("m-2", user="ben"), a_command("m-3"))
    audit = tmp_path / "audit.jsonl"
    status, said = await desk.tool("replay", "orders", "--user", "ana", "--dry-run")
    assert (status, said) == (0, "2 would be replayed\n")
    assert await desk.waiting(DEAD) == ["m-1", "m-2", "m-3"]
    status, said = await desk.tool("replay", "orders", "--user", "ana", "--audit", str(audit))
    assert (status, said.splitlines()[-1]) == (0, "2 replayed")
    assert await desk.waiting(DEAD) == ["m-2"]
    assert await desk.waiting(ORIGIN.name) == ["m-1", "m-3"]
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert [(line["what"], line["msg_id"], line["reason"]) for line in lines] == [
        ("replayed", "m-1", "failed"),
        ("replayed", "m-3", "failed"),
    ]
    assert all(line["who"] and line["at"] and line["queue"] == ORIGIN.name for line in lines)
    carried = [json.loads(line) for line in said.splitlines()[:-1]]
    assert [(line["event"], line["msg_id"]) for line in carried] == [("replayed", "m-1"), ("replayed", "m-3")]


async def test_drop_removes_named_messages_and_all_only_after_a_confirmation(
    desk: Desk, tmp_path: Path
) -> None:
    await desk.park(a_command("m-1"), a_command("m-2"), a_command("m-3", user="ben"))
    status, said = await desk.tool("drop", "orders", "--user", "ana")
    assert (status, said) == (
        2,
        "towpath: this would drop 2 of orders.dead for good: say --yes, or name them\n",
    )
    assert await desk.waiting(DEAD) == ["m-1", "m-2", "m-3"]
    assert (await desk.tool("drop", "orders", "m-1"))[0] == 0
    assert await desk.waiting(DEAD) == ["m-2", "m-3"]
    audit = tmp_path / "audit.jsonl"
    status, said = await desk.tool("drop", "orders", "--yes", "--audit", str(audit))
    assert (status, said.splitlines()[-1]) == (0, "2 dropped")
    assert await desk.waiting(DEAD) == []
    assert await desk.waiting(ORIGIN.name) == []
    assert len(audit.read_text().splitlines()) == 2


async def test_an_unknown_name_changes_nothing(desk: Desk) -> None:
    await desk.park(a_command("m-1"))
    for command in (
        ["replay", "orders", "m-1", "m-9"],
        ["drop", "orders", "m-1", "m-9"],
        ["show", "orders", "m-9"],
    ):
        status, said = await desk.tool(*command)
        assert (status, said.count("\n")) == (1, 1)
        assert said.startswith("towpath: no message 'm-9' is parked in orders.dead")
    assert await desk.waiting(DEAD) == ["m-1"]


async def test_replay_reaches_the_queues_of_an_earlier_version(rabbitmq: Rabbit) -> None:
    """They are bound to no exchange that leads back, and are reached by their names.

    With one account for all programs, as earlier versions had: an account `ops` may not publish to queues by name.
    """
    dead = [queue for queue in dead_letters.queues("orders", 1000) if queue.name == DEAD]
    ways = [one for one in dead_letters.exchanges("orders") if one.name == DEAD]
    async with RabbitBroker.connect(rabbitmq.url, name="test", reconnect_max=0.5) as broker:
        await broker.declare(Topology(ways, [replace(ORIGIN, bindings=[]), *dead]))
        with Processes() as processes:
            desk = Desk(rabbitmq, processes, broker)
            await desk.park(a_command("m-1"), a_command("m-2"))
            status, said = await desk.tool("replay", "orders")
            assert (status, said.splitlines()[-1]) == (0, "2 replayed")
            assert await desk.waiting(ORIGIN.name) == ["m-1", "m-2"]


async def test_replay_keeps_its_rate_and_an_interrupt_loses_nothing(desk: Desk) -> None:
    await desk.park(*(a_command(f"m-{n}") for n in range(MANY)))
    running = desk.launch("replay", "orders", "--rate", "20")
    began = asyncio.get_running_loop().time()
    await eventually(lambda: running.output.count("\n") >= 5, timeout=30)
    assert asyncio.get_running_loop().time() - began > 4 / 20
    os.kill(running.pid, signal.SIGINT)
    assert await running.ended() == 130
    done = running.output.count("\n") - 1
    assert 5 <= done < MANY
    assert running.output.splitlines()[-1] == f"towpath: interrupted: {done} replayed; the rest stays parked"
    both = await desk.waiting(ORIGIN.name) + await desk.waiting(DEAD)
    assert list(dict.fromkeys(both)) == [f"m-{n}" for n in range(MANY)]
    assert len(both) <= MANY + 1, "the one that was on its way may be in both queues"


async def test_a_tool_that_is_killed_loses_nothing(desk: Desk) -> None:
    everything = {f"m-{n}" for n in range(MANY)}
    await desk.park(*(a_command(f"m-{n}") for n in range(MANY)))
    running = desk.launch("replay", "orders", "--rate", "20")
    await eventually(lambda: running.output.count("\n") >= 5, timeout=30)
    await running.kill()

    async def all_there() -> bool:
        parked, again = await desk.waiting(DEAD), await desk.waiting(ORIGIN.name)
        return set(parked) | set(again) == everything and len(parked) + len(again) <= MANY + 1

    await eventually(all_there)
    assert await desk.waiting(DEAD)  # it was killed in the middle of its work
    assert (await desk.tool("replay", "orders"))[0] == 0
    assert set(await desk.waiting(ORIGIN.name)) == everything
    assert await desk.waiting(DEAD) == []


async def test_messages_parked_meanwhile_are_not_touched(desk: Desk) -> None:
    # Played into the dead queue itself: what fails at once.
    [dead] = [queue for queue in dead_letters.queues("orders", 1000) if queue.name == DEAD]
    again = replace(dead, bindings=[dead_letters.way_back("orders", DEAD)])
    await desk.broker.declare(Topology(dead_letters.exchanges("orders"), [again]))
    await desk.park(*(a_command(f"m-{n}") for n in range(3)), carried=headers(more={"x-queue": DEAD}))
    status, said = await desk.tool("replay", "orders")
    assert (status, said.splitlines()[-1]) == (0, "3 replayed")
    assert await desk.waiting(DEAD) == ["m-0", "m-1", "m-2"]


async def test_two_tools_at_once_replay_each_message_once(desk: Desk) -> None:
    await desk.park(*(a_command(f"m-{n}") for n in range(30)))
    both = await asyncio.gather(desk.tool("replay", "orders"), desk.tool("replay", "orders"))
    assert [status for status, _ in both] == [0, 0]
    await desk.tool("replay", "orders")  # messages that one tool held while the other looked
    assert sorted(await desk.waiting(ORIGIN.name)) == sorted(f"m-{n}" for n in range(30))
    assert await desk.waiting(DEAD) == []


async def test_a_message_that_cannot_be_replayed_remains_parked(desk: Desk) -> None:
    await desk.park(a_command("m-1"))
    await desk.park(a_command("m-2"), carried=headers(more={"x-queue": "orders.commands.7"}))
    await desk.park(a_command("m-3"), carried={"x-reason": "unknown"})
    status, said = await desk.tool("replay", "orders")
    assert status == 1
    assert said.splitlines()[-1].startswith(
        "towpath: 1 replayed, and then: no queue is bound to 'orders.commands.7'"
    )
    assert await desk.waiting(DEAD) == ["m-2", "m-3"]
    status, said = await desk.tool("replay", "orders", "m-3")
    assert (status, said.splitlines()[-1]) == (0, "0 replayed, 1 skipped")
    assert await desk.waiting(DEAD) == ["m-2", "m-3"]


@pytest.mark.parametrize(
    ("command", "settings", "status", "line"),
    [
        (
            "list unknown",
            {},
            1,
            "there is no queue 'unknown.dead': no service of that name has run on this broker",
        ),
        ("replay a/b", {}, 1, "there is no queue 'a/b.dead'"),
        ("list orders --since soon", {}, 2, "--since 'soon': must be like 30m"),
        ("list orders --limit 0", {}, 2, "Invalid value for '--limit'"),
        ("show orders", {}, 2, "Missing argument 'MSG_ID'"),
        ("replay orders --rate 0", {}, 2, "Invalid value for '--rate'"),
        ("replay orders --audit /nowhere/a", {}, 2, "--audit '/nowhere/a' cannot be written: No such file"),
        (
            "list orders",
            {"amqp_url": "memory://"},
            2,
            "TOWPATH_AMQP_URL='memory://': nothing of the memory broker",
        ),
        ("list orders", {"amqp_url": "amqp://127.0.0.1:1"}, 2, "TOWPATH_AMQP_URL='amqp://127.0.0.1:1"),
        ("list orders", {"amqp_url": "http://x"}, 2, "TOWPATH_AMQP_URL: must be amqp://"),
        ("list orders", {"amqp_url": ""}, 2, "TOWPATH_AMQP_URL: is not set"),
    ],
)
async def test_an_impossible_command_prints_one_line_and_changes_nothing(
    desk: Desk, command: str, settings: dict[str, str], status: int, line: str
) -> None:
    await desk.park(a_command("m-1"))
    ended, said = await desk.tool(*command.split(), **settings)
    assert (ended, said.count("\n")) == (status, 1), said
    assert said.startswith(f"towpath: {line}")
    assert await desk.waiting(DEAD) == ["m-1"]


async def test_wrong_credentials_are_reported_in_one_line(desk: Desk, rabbitmq: Rabbit) -> None:
    _, _, rest = rabbitmq.url.partition("@")
    wrong = f"amqp://nobody:wrong@{rest}"
    status, said = await desk.tool("list", "orders", amqp_url=wrong)
    assert (status, said.count("\n")) == (2, 1)
    assert "or the password" in said
    assert "wrong" not in said
