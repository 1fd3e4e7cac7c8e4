"""Questions of operators: a gateway reports its state to the one who asks, and a request to drain stops it."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.protocol.errors import BadEnvelope
from towpath.protocol.operators import (
    ASK_ALL,
    ASKER,
    Drain,
    GatewayReport,
    Question,
    ask_key,
    drain_key,
    read_question,
    read_report,
    report_key,
)
from towpath.protocol.routes import PUSH
from towpath.servicekit.broker.interface import Binding, Broker, Inbox, Message, Subscription
from towpath.testkit.eventually import eventually
from towpath.testkit.gateway import Backend, GatewayUnderTest, RunGateway


class Operator:
    """The tool of an operator."""

    def __init__(self, broker: Broker, asker: str, reports: Subscription) -> None:
        self.broker = broker
        self.asker = asker
        self._reports = reports

    async def publish(self, key: str, body: object) -> None:
        """Publish under ``key``; bytes go as they are."""
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        await self.broker.publish(PUSH, key, Message(body=raw, persistent=False), mandatory=True)

    async def report(self) -> GatewayReport:
        """The next report."""
        async with asyncio.timeout(10):
            delivery = await anext(aiter(self._reports))
        delivery.ack()
        return read_report(delivery.body)

    async def ask(self, key: str = ASK_ALL, **question: Any) -> GatewayReport:
        """Ask, and wait for one report."""
        await self.publish(key, Question(self.asker, **question))
        return await self.report()


@asynccontextmanager
async def an_operator(gateway: GatewayUnderTest) -> AsyncIterator[Operator]:
    asker = f"ops-{secrets.token_hex(8)}"
    inbox = Inbox(name="ops.test", bindings=[Binding(PUSH, report_key(asker))])
    async with (
        gateway.hub.connect(name="operator") as broker,
        broker.subscribe(inbox, prefetch=10) as reports,
    ):
        yield Operator(broker, asker, reports)


@pytest.fixture
async def operator(gateway: GatewayUnderTest) -> AsyncIterator[Operator]:
    """One at the broker of ``gateway``."""
    async with an_operator(gateway) as operator:
        yield operator


async def test_a_gateway_reports_its_state(gateway: GatewayUnderTest, operator: Operator) -> None:
    async with gateway.connect("ana"), gateway.connect("ana"), gateway.connect("ben"):
        report = await operator.ask()
        assert (report.connections, report.users, report.failing) == (3, 2, [])
        assert report.development
        assert report.connections_wanted == gateway.settings.max_connections
        # As far as the limit of open files allows on the machine of the test.
        assert 0 < report.connections_max <= min(report.connections_wanted, report.descriptors)
    assert (await operator.ask()).connections == 0


async def test_a_question_may_be_for_one_gateway(gateway: GatewayUnderTest, operator: Operator) -> None:
    report = await operator.ask(ask_key(gateway.settings.gateway_id))
    assert report.gateway_id == gateway.settings.gateway_id


async def test_a_report_lists_the_connections_of_a_user_and_their_groups(
    gateway: GatewayUnderTest, backend: Backend, operator: Operator
) -> None:
    async with gateway.connect("ana") as ana, gateway.connect("ana"), gateway.connect("ben"):
        [first, *_] = [(await backend.event())["data"] for _ in range(3)]
        assert first["user_id"] == "ana"
        await backend.direct(first, subscribe=["chat:harbour"])

        async def is_subscribed() -> bool:
            return (await operator.ask(user_id="ana", group="chat:harbour")).in_group == 1

        await eventually(is_subscribed)
        report = await operator.ask(user_id="ana", group="chat:harbour")
        assert report.of_user_count == 2
        inside = {one.connection_id: one.in_group for one in report.of_user}
        assert inside.pop(first["connection_id"]) is True
        assert list(inside.values()) == [False]
        welcome = ana.pushes("session.welcome")[0]
        assert welcome["data"]["connection_id"] in {one.connection_id for one in report.of_user}
        assert (await operator.ask(user_id="nils")).of_user == []


async def test_a_report_lists_no_more_connections_than_were_asked_for(
    gateway: GatewayUnderTest, operator: Operator
) -> None:
    async with gateway.connect("ana"), gateway.connect("ana"), gateway.connect("ana"):
        report = await operator.ask(user_id="ana", most=2)
        assert (len(report.of_user), report.of_user_count) == (2, 3)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"asker":"ana"}',
        b'{"asker":"ops-0123456789abcdef\\n"}',
        b'{"asker":"ops-0123456789abcdef","most":1000000}',
        b'{"asker":"ops-0123456789abcdef","user_id":"%s"}' % (b"a" * 129),
        b"[" * 100_000,
        b"\xff",
    ],
)
async def test_a_question_that_cannot_be_read_is_counted_and_ends_nothing(
    body: bytes, gateway: GatewayUnderTest, operator: Operator
) -> None:
    await operator.publish(ASK_ALL, body)
    assert (await operator.ask()).gateway_id == gateway.settings.gateway_id
    _, text = await gateway.admin("/metrics")
    assert "operator_requests_refused_total 1.0" in text


async def test_a_flood_of_questions_is_answered_in_part_and_disturbs_no_client(
    gateway: GatewayUnderTest, operator: Operator
) -> None:
    async with gateway.connect("ana") as ana:
        for _ in range(200):
            await operator.publish(ASK_ALL, Question(operator.asker, most=0))
        assert (await ana.request("ping"))["action"] == "pong"
        assert (await operator.report()).connections == 1
    _, text = await gateway.admin("/metrics")
    refused = [line for line in text.splitlines() if line.startswith("operator_requests_refused_total ")]
    assert float(refused[0].split()[1]) >= 100


async def test_a_client_gets_nothing_of_a_question(gateway: GatewayUnderTest, operator: Operator) -> None:
    async with gateway.connect("ana") as ana:
        await operator.ask(user_id="ana")
        await ana.request("ping")
        assert [
            push["action"] for push in ana.frames if push["action"] not in ("session.welcome", "pong")
        ] == []


async def test_a_drain_closes_connections_with_advice_and_ends_the_gateway(run_gateway: RunGateway) -> None:
    async with run_gateway() as gateway, an_operator(gateway) as operator:
        report = await operator.ask()
        async with gateway.connect("ana") as ana:
            await operator.publish(
                drain_key(gateway.settings.gateway_id), Drain(incarnation=report.incarnation)
            )
            closing = await ana.next("session.closing")
            assert closing["data"]["code"] == 1012
            assert closing["data"]["retry_after_ms"] >= 0


@pytest.mark.parametrize("body", [{"incarnation": "another run"}, {}, {"incarnation": None}, []])
async def test_a_drain_that_names_another_run_is_ignored(
    body: object, gateway: GatewayUnderTest, operator: Operator
) -> None:
    await operator.publish(drain_key(gateway.settings.gateway_id), body)
    report = await operator.ask()
    assert report.failing == []
    assert await gateway.is_ready()


@given(st.from_regex(ASKER, fullmatch=True), st.text(max_size=300), st.integers())
def test_a_question_is_read_as_it_was_written_or_refused(asker: str, user: str, most: int) -> None:
    written = Question(asker, user, "", most)
    try:
        body = msgspec.json.encode(written)
    except (UnicodeEncodeError, OverflowError):
        return
    is_valid = len(user) <= 128 and 0 <= most <= 200
    try:
        assert read_question(body) == written
        assert is_valid
    except BadEnvelope:
        assert not is_valid


def test_fields_of_a_later_version_are_ignored() -> None:
    report: Mapping[str, Any] = {
        "gateway_id": "gw-1",
        "incarnation": "a",
        "version": "9.0",
        "at": 1,
        "up_seconds": 1.0,
        "newer": {"field": 1},
    }
    assert read_report(msgspec.json.encode(report)).gateway_id == "gw-1"
