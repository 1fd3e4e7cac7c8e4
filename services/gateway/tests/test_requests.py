"""Requests: the answer to each frame, valid or not."""

import asyncio
import json
import re
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode

from towpath.protocol.envelope import make
from towpath.protocol.routes import COMMANDS, partition
from towpath.servicekit.broker.interface import Binding, Inbox
from towpath.servicekit.runtime.trace_context import trace_id
from towpath.testkit.client import Frame, WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.gateway import Backend, GatewayUnderTest, RunGateway, a_backend
from towpath.testkit.tokens import a_token

GOOD: dict[str, Any] = {
    "msg_id": "m-1",
    "timestamp": 1_712_048_400_000,
    "action": "echo.say",
    "data": {"text": "hi"},
    "version": "1.0",
}


TRACE: Final = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def changed(**fields: Any) -> str:
    """A good envelope with some fields changed; ``None`` takes one away."""
    envelope = {name: value for name, value in (GOOD | fields).items() if value is not None}
    return json.dumps(envelope)


async def error_for(client: WireClient, frame: str) -> Frame:
    """Send a frame and return the ``error`` that it gets."""
    await client.send_raw(frame)
    return await client.next("error")


async def test_a_ping_is_answered_by_the_gateway_itself(gateway: GatewayUnderTest) -> None:
    async with gateway.connect() as ana:
        assert (await ana.request("ping"))["action"] == "pong"


@pytest.mark.parametrize(
    ("frame", "code", "field"),
    [
        ("", "bad_envelope", None),
        ("{", "bad_envelope", None),
        ("hello", "bad_envelope", None),
        ("[1]", "bad_envelope", None),
        ("null", "bad_envelope", None),
        ("7", "bad_envelope", None),
        ("{}", "bad_envelope", "msg_id"),
        (changed(timestamp=None), "bad_envelope", "timestamp"),
        (changed(action=None), "bad_envelope", "action"),
        (changed(version=None), "bad_envelope", "version"),
        ('{"msg_id":"m-1","timestamp":1,"action":"echo.say","version":"1.0"}', "bad_envelope", "data"),
        (changed(msg_id=7), "bad_envelope", "msg_id"),
        (changed(msg_id="a b"), "bad_envelope", "msg_id"),
        (changed(msg_id="x" * 65), "bad_envelope", "msg_id"),
        (changed(timestamp="now"), "bad_envelope", "timestamp"),
        (changed(timestamp=1.5), "bad_envelope", "timestamp"),
        (changed(timestamp=True), "bad_envelope", "timestamp"),
        (changed(action="echo"), "bad_envelope", "action"),
        (changed(action="Echo.Say"), "bad_envelope", "action"),
        (changed(action="echo.#"), "bad_envelope", "action"),
        (changed(action="a.b.c.d.e"), "bad_envelope", "action"),
        (changed(data=[]), "bad_envelope", "data"),
        (changed(data="{}"), "bad_envelope", "data"),
        (changed(version=1.0), "bad_envelope", "version"),
        (changed(version="1"), "bad_envelope", "version"),
        (changed(key="a b"), "bad_envelope", "key"),
        (changed(ack="yes"), "bad_envelope", "ack"),
        (changed(data={"n": float("nan")}), "bad_envelope", None),
        (changed() + ', "key": "room"', "bad_envelope", None),  # would be a field of the command around it
        (changed(version="2.0"), "unsupported_version", None),
        (changed(action="nobody.there"), "unknown_action", None),
        (changed(action="session.explode"), "unknown_action", None),
        (changed(action="accepted"), "unknown_action", None),
        (changed(action="error"), "unknown_action", None),
        (changed(action="session.refresh"), "invalid_data", None),
        (changed(action="session.refresh", data={"token": "garbage"}), "unauthorized", None),
    ],
)
async def test_bad_input_gets_its_code_and_the_connection_lives_on(
    gateway: GatewayUnderTest, frame: str, code: str, field: str | None
) -> None:
    async with gateway.connect() as ana:
        data = (await error_for(ana, frame))["data"]
        assert data["code"] == code
        assert data["retryable"] is False
        assert data["message"]
        if field is not None:
            assert field in {problem["field"] for problem in data["details"]["fields"]}
        assert (await ana.request("ping"))["action"] == "pong"


async def test_an_error_names_the_request_whenever_its_id_can_be_read(gateway: GatewayUnderTest) -> None:
    async with gateway.connect() as ana:
        assert (await error_for(ana, changed(data=7)))["correlation_id"] == "m-1"
        assert (await error_for(ana, changed(version="3.1")))["correlation_id"] == "m-1"
        assert "correlation_id" not in await error_for(ana, changed(msg_id="not an id!"))


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(text=st.text(max_size=200) | st.binary(max_size=50).map(repr))
def test_any_text_is_answered(text: str) -> None:
    # Pure: the same function the gateway calls on each frame.
    from towpath.protocol.envelope import parse
    from towpath.protocol.errors import BadEnvelope

    with pytest.raises(BadEnvelope):
        parse(text)


async def test_requests_sent_with_the_handshake_are_answered_in_order(
    gateway: GatewayUnderTest,
) -> None:
    host, port = urlsplit(gateway.url).hostname, urlsplit(gateway.url).port
    handshake = (
        f"GET /ws HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        f"Authorization: Bearer {a_token('ana')}\r\n\r\n"
    )
    pings = [changed(action="ping", msg_id=f"m-{number}", data={}) for number in range(100)]
    frames = b"".join(WireFrame(Opcode.TEXT, ping.encode()).serialize(mask=True) for ping in pings)
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(handshake.encode() + frames)
        async with asyncio.timeout(10):
            answered = await reader.readuntil(b'"correlation_id":"m-99"')
    finally:
        writer.close()
    assert re.findall(rb'"correlation_id":"m-(\d+)"', answered) == [b"%d" % number for number in range(100)]


async def test_a_binary_frame_closes_with_1003(gateway: GatewayUnderTest) -> None:
    async with gateway.connect() as ana:
        await ana.send_raw(b"{}")
        assert await ana.closed() == 1003


async def test_a_frame_of_65_kib_closes_with_1009_and_one_of_64_does_not(gateway: GatewayUnderTest) -> None:
    async with gateway.connect() as ana:
        frame = changed(data={"text": ""})
        await ana.send_raw(changed(data={"text": "x" * (64 * 1024 - len(frame))}))
        assert (await ana.next("error"))["data"]["code"] == "unknown_action"
        await ana.send_raw("x" * (65 * 1024))
        assert await ana.closed() == 1009


async def test_too_many_unreadable_frames_close_with_4500(run_gateway: RunGateway) -> None:
    async with run_gateway(max_violations=3) as gateway, gateway.connect() as ana:
        for _ in range(4):
            await ana.send_raw("nonsense")
        assert (await ana.next("session.closing"))["data"]["code"] == 4500
        assert await ana.closed() == 4500


async def test_a_command_carries_the_session_and_the_unchanged_envelope(
    gateway: GatewayUnderTest, backend: Backend
) -> None:
    async with gateway.connect("ana", token=a_token("ana", scope="echo chat")) as ana:
        welcome = await ana.next("session.welcome")
        raw = (
            '{ "msg_id":"m-1","timestamp":1,"action":"echo.say","version":"1.7","extra":true,'
            '"data":{"user_id":"ben","x":[1, 2.50]} }'
        )
        await ana.send_raw(raw)
        command, delivery = await backend.command()
    assert command["session"] == {
        "user_id": "ana",
        "connection_id": welcome["data"]["connection_id"],
        "gateway_id": gateway.settings.gateway_id,
        "scope": "echo chat",
    }
    traceparent = command["envelope"].pop("traceparent")
    assert command["envelope"] == json.loads(raw)
    assert raw.rstrip(" }").encode() in delivery.body  # not parsed and built again
    assert delivery.headers["traceparent"] == traceparent
    assert delivery.routing_key == f"echo.{partition('ana')}"


@pytest.mark.parametrize(
    "theirs", [TRACE, TRACE.replace("-01", "-00"), "", "x", "\u202e\x1b[2J", '","session":{}']
)
async def test_the_trace_of_a_client_stays_in_its_envelope_and_the_gateways_is_beside_it(
    gateway: GatewayUnderTest, backend: Backend, theirs: str
) -> None:
    async with gateway.connect() as ana:
        await ana.send("echo.say", {}, traceparent=theirs, tracestate="rojo=1")
        command, delivery = await backend.command()
    assert command["envelope"]["traceparent"] == theirs
    assert command.keys() == {"session", "traceparent", "envelope"}
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", command["traceparent"])
    assert trace_id(command["traceparent"]) != trace_id(theirs)
    assert delivery.headers["traceparent"] == command["traceparent"]


@pytest.mark.parametrize(
    ("ours", "flag"), [({}, "00"), ({"otlp_endpoint": "http://127.0.0.1:9", "trace_ratio": 1}, "01")]
)
async def test_a_closed_system_may_continue_the_traces_of_clients_and_decides_itself_what_is_recorded(
    run_gateway: RunGateway, ours: dict[str, Any], flag: str
) -> None:
    async with (
        run_gateway(trace_clients="continue", **ours) as gateway,
        a_backend(gateway.hub) as backend,
        gateway.connect() as ana,
    ):
        for state, wanted in (('rojo="1" , congo=2', 'rojo="1",congo=2'), ("Rojo=1", None), (None, None)):
            extra = {} if state is None else {"tracestate": state}
            await ana.send("echo.say", {}, traceparent=TRACE, **extra)
            command, delivery = await backend.command()
            assert trace_id(command["traceparent"]) == trace_id(TRACE)
            assert command["traceparent"].endswith(flag)
            # A recorded request has a span here, and what follows is below it.
            assert (command["traceparent"] == f"{TRACE[:-2]}{flag}") is (flag == "00")
            assert command.get("tracestate") == wanted
            assert delivery.headers["traceparent"] == command["traceparent"]
        # A list without its trace belongs to none.
        await ana.send("echo.say", {}, traceparent="x", tracestate="rojo=1")
        command, _ = await backend.command()
        assert trace_id(command["traceparent"])
        assert "tracestate" not in command


async def test_the_id_of_an_error_is_the_servers(gateway: GatewayUnderTest) -> None:
    async with gateway.connect() as ana:
        error = await ana.request("nobody.here", {}, traceparent=TRACE)
    assert error["data"]["code"] == "unknown_action"
    assert re.fullmatch("[0-9a-f]{32}", error["data"]["trace_id"])
    assert error["data"]["trace_id"] != trace_id(TRACE)


async def test_the_key_chooses_the_partition(gateway: GatewayUnderTest, backend: Backend) -> None:
    async with gateway.connect() as ana:
        await ana.send("echo.say", {}, key="room-7")
        _, delivery = await backend.command()
    assert delivery.routing_key == f"echo.{partition('room-7')}"


async def test_accepted_is_sent_after_the_confirm_and_only_on_request(
    gateway: GatewayUnderTest, backend: Backend
) -> None:
    async with gateway.connect() as ana:
        gateway.hub.hold_confirms()
        first = await ana.send("echo.say", {}, ack=True)
        second = await ana.send("echo.say", {})
        await ana.request("ping")
        assert not any(frame["action"] == "accepted" for frame in ana.frames)
        gateway.hub.release_confirms()
        await ana.accepted(first)
        await ana.request("ping")
        assert [f["correlation_id"] for f in ana.frames if f["action"] == "accepted"] == [first]
        assert second


async def test_an_answer_never_overtakes_its_accepted(gateway: GatewayUnderTest, backend: Backend) -> None:
    async with gateway.connect() as ana:
        gateway.hub.hold_confirms()
        msg_id = await ana.send("echo.say", {}, ack=True)
        command, _ = await backend.command()
        answer = {**GOOD, "action": "echo.say.ok", "correlation_id": msg_id}
        pushing = asyncio.create_task(backend.direct(command["session"], envelope=answer))
        await ana.answer(msg_id)
        gateway.hub.release_confirms()
        await pushing
        await ana.request("ping")
        received = [frame["action"] for frame in ana.frames if frame.get("correlation_id") == msg_id]
        assert received == ["accepted", "echo.say.ok"]


async def test_a_repeated_answer_of_a_service_reaches_the_client_once(
    gateway: GatewayUnderTest, backend: Backend
) -> None:
    async with gateway.connect("ana") as ana:
        msg_id = await ana.send("echo.say")
        command, _ = await backend.command()
        answer = {**GOOD, "action": "echo.say.ok", "correlation_id": msg_id}
        for _ in range(3):  # as after a crash before the ack
            await backend.direct(command["session"], envelope=answer)
        last = await ana.send("echo.say")
        await backend.answer()
        await eventually(lambda: last in answered(ana))
        assert answered(ana) == [msg_id, last]


async def test_a_request_that_is_sent_twice_is_answered_twice(
    gateway: GatewayUnderTest, backend: Backend
) -> None:
    async with gateway.connect("ana") as ana:
        for _ in range(2):
            await ana.send("echo.say", msg_id="m-1")
        commands: list[dict[str, Any]] = []
        while len(commands) < 2:  # one batch, or two
            commands += await backend.commands()
        for command in commands:
            answer = {**GOOD, "action": "echo.say.ok", "correlation_id": "m-1"}
            await backend.direct(command["session"], envelope=answer)
        await eventually(lambda: answered(ana) == ["m-1", "m-1"])
        await ana.send("echo.say", msg_id="m-1")  # and later
        await backend.answer()
        await eventually(lambda: answered(ana) == ["m-1"] * 3)


async def test_an_answer_after_the_timeout_still_comes_once(run_gateway: RunGateway) -> None:
    async with (
        run_gateway(publish_timeout=0.2) as gateway,
        a_backend(gateway.hub) as backend,
        gateway.connect("ana") as ana,
    ):
        gateway.hub.hold_confirms()
        msg_id = await ana.send("echo.say")
        assert (await ana.next("error"))["data"]["code"] == "timeout"
        gateway.hub.release_confirms()
        await backend.answer()
        await eventually(lambda: answered(ana) == [msg_id])


def answered(client: WireClient) -> list[str]:
    return [frame["correlation_id"] for frame in client.frames if frame["action"] == "echo.say.ok"]


async def test_the_answer_reaches_the_connection_that_asked_and_no_other(
    gateway: GatewayUnderTest, backend: Backend
) -> None:
    async with gateway.connect("ana") as one, gateway.connect("ana") as two:
        asking = asyncio.create_task(one.request("echo.say", {"text": "hi"}))
        await backend.answer()
        answer = await asking
        assert (answer["action"], answer["data"]) == ("echo.say.ok", {"text": "hi"})
        await two.request("ping")
        assert not any(frame["action"] == "echo.say.ok" for frame in two.frames)


async def test_a_domain_outside_the_scope_is_forbidden(gateway: GatewayUnderTest, backend: Backend) -> None:
    async with gateway.connect(token=a_token("ana", scope="chat")) as ana:
        assert (await ana.request("echo.say"))["data"]["code"] == "forbidden"


async def test_requests_are_unavailable_while_the_broker_is_unreachable(
    gateway: GatewayUnderTest, backend: Backend
) -> None:
    async with gateway.connect() as ana:
        gateway.hub.stop()
        error = (await ana.request("echo.say"))["data"]
        assert (error["code"], error["retryable"]) == ("unavailable", True)
        gateway.hub.start()
        await eventually(gateway.is_ready)
        asking = asyncio.create_task(ana.request("echo.say"))
        await backend.answer()
        assert (await asking)["action"] == "echo.say.ok"
        assert await ana.next("session.resync")


async def test_a_blocked_broker_means_busy_while_pushes_are_still_delivered(
    gateway: GatewayUnderTest, backend: Backend
) -> None:
    async with gateway.connect() as ana:
        msg_id = await ana.send("echo.say")
        command, _ = await backend.command()
        await eventually(gateway.is_ready)
        gateway.hub.block()
        error = (await ana.request("echo.say"))["data"]
        assert (error["code"], error["retryable"]) == ("busy", True)
        assert error["retry_after_ms"] > 0
        gateway.hub.unblock()
        await backend.direct(
            command["session"], envelope={**GOOD, "action": "echo.say.ok", "correlation_id": msg_id}
        )
        await ana.answer(msg_id)


async def test_no_confirm_in_time_is_a_timeout_with_unknown_outcome(run_gateway: RunGateway) -> None:
    async with (
        run_gateway(publish_timeout=0.2) as gateway,
        a_backend(gateway.hub) as backend,
        gateway.connect() as ana,
    ):
        await eventually(lambda: backend.broker)
        gateway.hub.hold_confirms()
        error = (await ana.request("echo.say"))["data"]
        assert (error["code"], error["retryable"]) == ("timeout", True)
        gateway.hub.release_confirms()


async def test_more_requests_than_the_window_are_busy(run_gateway: RunGateway) -> None:
    async with (
        run_gateway(inflight_per_connection=2) as gateway,
        a_backend(gateway.hub),
        gateway.connect() as ana,
    ):
        gateway.hub.hold_confirms()
        first, second = await ana.send("echo.say", ack=True), await ana.send("echo.say", ack=True)
        assert (await ana.request("echo.say"))["data"]["code"] == "busy"
        gateway.hub.release_confirms()
        await ana.accepted(first)
        await ana.accepted(second)


async def test_a_large_request_in_flight_weighs_one_more_for_each_four_kibibytes(
    run_gateway: RunGateway,
) -> None:
    async with (
        run_gateway(inflight_per_connection=8) as gateway,
        a_backend(gateway.hub),
        gateway.connect() as ana,
    ):
        await ana.send("echo.say", {"text": "x" * 24 * 1024})  # weighs 7
        await ana.send("echo.say")
        assert (await ana.request("echo.say"))["data"]["code"] == "busy"


async def test_a_client_far_ahead_of_its_answers_is_read_only_as_they_arrive(run_gateway: RunGateway) -> None:
    async with (
        run_gateway(inflight_paced=4, inflight_pause=10.0) as gateway,
        a_backend(gateway.hub) as backend,
        gateway.connect() as ana,
        gateway.connect("ben") as ben,
    ):
        asked = [await ana.send("echo.say", {"text": "x" * 2000}) for _ in range(40)]
        reached: list[Any] = []
        while len(reached) < 5:
            reached += await backend.commands()
        assert (await ben.request("ping"))["action"] == "pong"
        assert len(reached) < 10
        for number in range(40):
            while len(reached) <= number:
                reached += await backend.commands()
            command = reached[number]
            answer = make("echo.say.ok", {}, correlation_id=command["envelope"]["msg_id"])
            await backend.direct(command["session"], envelope=answer.model_dump(exclude_none=True))
        for msg_id in asked:
            assert (await ana.answer(msg_id))["action"] == "echo.say.ok"


async def test_requests_of_one_key_arrive_in_the_order_they_were_sent(
    gateway: GatewayUnderTest, backend: Backend
) -> None:
    async with gateway.connect() as ana:
        sent = [await ana.send("echo.say", {"n": n}) for n in range(200)]  # below the in-flight window
        got: list[str] = []
        while len(got) < len(sent):
            got += [item["envelope"]["msg_id"] for item in await backend.commands()]
    assert got == sent


async def test_received_frames_and_open_connections_are_measured(gateway: GatewayUnderTest) -> None:
    async with gateway.connect() as ana:
        await ana.request("ping")
        await ana.request("ping")
        status, metrics = await gateway.admin("/metrics")
    assert status == 200
    assert "messages_received_total 2.0" in metrics
    assert "connection_active 1.0" in metrics


async def test_a_domain_whose_queue_is_lost_is_unavailable_for_a_while_and_then_unknown(
    run_gateway: RunGateway,
) -> None:
    fleeting = Inbox(name="fleeting", bindings=[Binding(COMMANDS, "fleeting.*")])
    async with (
        run_gateway(
            domain_absence=0.5, rate_per_connection=0, rate_per_user=0, rate_per_address=0
        ) as gateway,  # it asks as fast as it can
        gateway.hub.connect(name="fleeting") as broker,
        broker.subscribe(fleeting, prefetch=10),
        gateway.connect() as ana,
    ):
        await ana.send("fleeting.say", ack=True)
        await ana.next("accepted")
        gateway.hub.lose_bindings("fleeting.*")
        codes: list[str] = []
        while "unknown_action" not in codes:
            codes.append((await ana.request("fleeting.say"))["data"]["code"])
    assert codes[0] == "unavailable"
    assert set(codes) == {"unavailable", "unknown_action"}
