"""The dispatcher of a service without storage; with one it is tested in the services that have one."""

import asyncio
import gc
import os
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from pydantic import BaseModel, ValidationError, field_validator

from towpath.protocol.envelope import Envelope, make, parse
from towpath.protocol.errors import Conflict, ErrorCode, TowpathError
from towpath.protocol.messages import Session, read_directed
from towpath.protocol.routes import EVENTS, EVERYONE, PUSH, command_queue, connection_key, dead_queue
from towpath.servicekit.broker.interface import (
    Binding,
    Broker,
    Delivery,
    HeaderValue,
    Inbox,
    Message,
    Queue,
    Subscription,
)
from towpath.servicekit.broker.memory import MemoryHub
from towpath.servicekit.handling.dispatcher import Completion, Dispatcher
from towpath.servicekit.handling.outcome import Outcome, to_everyone, to_group, to_user
from towpath.servicekit.handling.requests import Handler
from towpath.servicekit.messaging.publisher import Publisher
from towpath.servicekit.runtime.settings import ServiceSettings
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.servicekit.service import Service, topology, work_queues
from towpath.testkit.dispatching import (
    GATEWAY,
    Incoming,
    ServiceUnderTest,
    a_command,
    an_event,
    dispatch,
)

PATIENCE: Final = 30.0


class Say(BaseModel):
    text: str


def echo(request: Say, session: Session, _: None) -> Outcome:
    if request.text == "poison":
        raise ZeroDivisionError
    if request.text == "refuse":
        raise Conflict("It does not say that.", details={"text": request.text})
    return Outcome(answer={"text": request.text, "user": session.user_id})


def announce(request: Say, session: Session, _: None) -> Outcome:
    said = make("echo.said", {"text": request.text})
    return Outcome(
        answer=Say(text=request.text),
        pushes=[to_user(session.user_id, said), to_group("chat:lobby", said), to_everyone(said)],
        events=[said],
        subscribe=["chat:lobby"],
    )


def silent(_: Say, __: Session, ___: None) -> Outcome:
    return Outcome()


def unsayable(_: Say, __: Session, ___: None) -> Outcome:
    return Outcome(answer={"text": object()})


def forgetful(_: Say, __: Session, ___: None) -> Any:
    return None


def plain(request: Say, __: Session, ___: None) -> Any:
    return {"text": request.text}


async def awaited(_: Say, __: Session, ___: None) -> Outcome:
    return Outcome()


def greedy(_: Say, __: Session, ___: None, ____: object) -> Outcome:
    return Outcome()


class Flaky:
    """A handler that fails for a moment."""

    fails = 0

    def __init__(self) -> None:
        self.handled: list[str] = []

    def __call__(self, request: Say, _: Session, __: None) -> Outcome:
        if self.fails:
            self.fails -= 1
            raise ConnectionError("away for a moment")
        self.handled.append(request.text)
        return Outcome()


FLAKY: Final = Flaky()


def hear(event: Say, _: None) -> Outcome:
    if event.text == "poison":
        raise ZeroDivisionError
    if event.text == "refuse":
        raise Conflict("It does not hear that.")
    return Outcome(pushes=[to_everyone(make("echo.heard", {"text": event.text}))])


ECHO: Final[Service[Any]] = Service(
    name="echo",
    domain="echo",
    commands={
        "echo.say": Handler(Say, echo),
        "echo.ask": Handler(Say, echo, changes=False),
        "echo.announce": Handler(Say, announce),
        "echo.silent": Handler(Say, silent),
        "echo.unsayable": Handler(Say, unsayable),
        "echo.forgetful": Handler(Say, forgetful),
        "echo.plain": Handler(Say, plain),
        "echo.awaited": Handler(Say, awaited),  # type: ignore[arg-type]  # async is the bug that is tried
        "echo.greedy": Handler(Say, greedy),
        "echo.flaky": Handler(Say, FLAKY),
    },
    events={"door.knocked": Handler(Say, hear)},
)


@pytest.fixture
async def service() -> AsyncIterator[ServiceUnderTest]:
    async with ServiceUnderTest.running(ECHO, "sqlite+aiosqlite:///not-used.db") as service:
        yield service


# Answers


@pytest.mark.parametrize("action", ["echo.say", "echo.ask"])
async def test_a_request_is_answered_to_its_connection(service: ServiceUnderTest, action: str) -> None:
    await service.dispatch(a_command(action, by="ana", msg_id="m-1", text="ahoy"))
    answer = service.answer("m-1")
    assert (answer.action, answer.data) == (f"{action}.ok", {"text": "ahoy", "user": "ana"})
    assert [heard.routing_key for heard in service.heard] == ["connection.gw-1"]


async def test_answers_come_in_the_order_of_the_requests(service: ServiceUnderTest) -> None:
    await service.dispatch(*(a_command("echo.say", msg_id=f"m-{n}", text=str(n)) for n in range(20)))
    told = [read_directed(heard.item)[0] for heard in service.heard]
    assert [parse(bytes(item.envelope)).data["text"] for item in told] == [str(n) for n in range(20)]


async def test_a_command_without_an_answer_is_answered_empty(service: ServiceUnderTest) -> None:
    await service.dispatch(a_command("echo.silent", msg_id="m-1", text="hush"))
    answer = service.answer("m-1")
    assert (answer.action, answer.data) == ("echo.silent.ok", {})


async def test_answers_pushes_and_events_are_published_to_their_receivers(service: ServiceUnderTest) -> None:
    await service.dispatch(a_command("echo.announce", by="ana", msg_id="m-1", text="ahoy"))
    for key in ("user.ana", "group.chat:lobby", EVERYONE):
        [push] = service.pushes(key)
        assert push.data == {"text": "ahoy"}
    assert [event.action for event in service.events()] == ["echo.said"]
    assert service.answer("m-1").data == {"text": "ahoy"}
    assert service.groups("c-1") == {"chat:lobby"}


async def test_a_connection_is_in_its_group_before_it_is_answered(service: ServiceUnderTest) -> None:
    await service.dispatch(a_command("echo.announce", by="ana", msg_id="m-1", text="ahoy"))
    first = next(heard for heard in service.heard if heard.routing_key == "connection.gw-1")
    assert b"subscribe" in first.item
    assert b"echo.announce.ok" not in first.item


# Errors


async def test_an_undefined_verb_is_answered_unknown_action(service: ServiceUnderTest) -> None:
    await service.dispatch(a_command("echo.sing", msg_id="m-1", text="la"))
    assert service.error("m-1") == ErrorCode.UNKNOWN_ACTION


async def test_data_that_fails_its_model_is_invalid(service: ServiceUnderTest) -> None:
    await service.dispatch(a_command("echo.say", msg_id="m-1", text=["la"]))
    assert service.error("m-1") == ErrorCode.INVALID_DATA
    assert service.answer("m-1").data["details"]["fields"][0]["field"] == "text"


async def test_a_scope_that_does_not_name_the_domain_is_forbidden(service: ServiceUnderTest) -> None:
    await service.dispatch(a_command("echo.say", msg_id="m-1", scope="chat order", text="la"))
    assert service.error("m-1") == ErrorCode.FORBIDDEN


async def test_a_domain_error_is_answered_with_its_code_and_details(service: ServiceUnderTest) -> None:
    await service.dispatch(a_command("echo.say", msg_id="m-1", text="refuse"))
    data = service.answer("m-1").data
    assert (data["code"], data["message"]) == ("conflict", "It does not say that.")
    assert data["details"] == {"text": "refuse"}
    assert len(data["trace_id"]) == 32
    assert service.retried() == service.parked() == []


async def test_refusals_and_answers_keep_the_order_of_the_requests(service: ServiceUnderTest) -> None:
    texts = ["a", "refuse", "b", ["no text"], "c"]
    await service.dispatch(
        *(a_command("echo.say", msg_id=f"m-{n}", text=text) for n, text in enumerate(texts))
    )
    assert [service.answer(f"m-{n}").action for n in range(5)] == [
        "echo.say.ok",
        "error",
        "echo.say.ok",
        "error",
        "echo.say.ok",
    ]


# Failures


@pytest.mark.parametrize("action", ["echo.say", "echo.ask"])
async def test_a_request_that_fails_is_answered_internal_and_the_others_succeed(
    service: ServiceUnderTest, action: str
) -> None:
    texts = ["a", "poison", "b"]
    await service.dispatch(*(a_command(action, msg_id=f"m-{text}", text=text) for text in texts))
    assert service.answer("m-a").data["text"] == "a"
    assert service.answer("m-b").data["text"] == "b"
    assert service.answer("m-poison").data["code"] == "internal"
    assert service.parked() == ["ZeroDivisionError: "]
    assert service.retried() == []


@pytest.mark.parametrize("verb", ["unsayable", "forgetful", "plain", "awaited", "greedy"])
async def test_a_bug_in_a_handler_is_answered_internal(service: ServiceUnderTest, verb: str) -> None:
    await service.dispatch(
        a_command(f"echo.{verb}", msg_id="m-1", text="x"), a_command("echo.say", msg_id="m-2", text="y")
    )
    assert service.answer("m-1").data["code"] == "internal"
    assert service.answer("m-2").data["text"] == "y"
    assert len(service.parked()) == 1


async def test_a_bug_is_one_log_line_with_one_traceback(
    service: ServiceUnderTest, capsys: pytest.CaptureFixture[str]
) -> None:
    await service.dispatch(
        *(a_command("echo.say", by=f"user-{n}", msg_id=f"m-{n}", text="poison") for n in range(7))
    )
    said = capsys.readouterr().out
    assert said.count("handler_failed") == 7
    assert said.count("Traceback (most recent call last)") == 7
    assert "During handling of the above exception" not in said


async def test_a_command_that_fails_for_a_moment_takes_effect_once_and_in_order(
    service: ServiceUnderTest,
) -> None:
    FLAKY.fails = 3
    texts = [f"flaky-{n}" for n in range(3)]
    await service.dispatch(*(a_command("echo.flaky", msg_id=text, text=text) for text in texts))
    assert [service.answer(text).action for text in texts] == ["echo.flaky.ok"] * 3
    assert FLAKY.handled[-3:] == texts
    assert service.parked() == service.retried() == []


async def test_each_event_of_a_batch_is_handled_parked_or_retried_alone(service: ServiceUnderTest) -> None:
    await service.dispatch(*(an_event("door.knocked", text=text) for text in ("a", "refuse", "poison", "b")))
    assert [push.data["text"] for push in service.pushes(EVERYONE)] == ["a", "b"]
    assert service.parked() == ["Conflict: It does not hear that."]
    assert service.retried() == ["ZeroDivisionError: "]


async def test_an_unreadable_event_is_parked_with_its_reason(service: ServiceUnderTest) -> None:
    await service.dispatch(an_event("door.knocked", text=5), an_event("door.knocked", text="a"))
    [reason] = service.parked()
    assert "text" in reason
    assert len(service.pushes(EVERYONE)) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b",".join([b"{}"] * 10_001) + b"]",
        b"[" + b",".join([b"{}"] * 5_000) + b"]",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"",
        b"\x00",
        b"\xef\xbb\xbf{}",
        b"\xff\xfe{",
        b"null",
        b'"text"',
        b"{" + b" " * 1_000_000,
    ],
    ids=[
        "more items than a body may have",
        "items that are all unreadable",
        "deep arrays",
        "deep objects",
        "empty",
        "NUL",
        "byte order mark",
        "no UTF-8",
        "null",
        "text",
        "a megabyte of blanks",
    ],
)
async def test_an_odd_body_is_parked_as_one_and_the_next_is_handled(
    service: ServiceUnderTest, body: bytes
) -> None:
    odd = Incoming(exchange=EVENTS, routing_key="door.knocked", item=body, app_id="careless")
    await service.dispatch(odd, an_event("door.knocked", text="a"))
    assert len(service.parked()) == 1
    assert [push.data["text"] for push in service.pushes(EVERYONE)] == ["a"]


@pytest.mark.parametrize(
    "incoming",
    [
        an_event("door.knocked", text=5),
        a_command("echo.say", text=5),
        a_command("echo.unknown"),
        a_command("echo.say", text="refuse"),
    ],
    ids=["an unreadable event", "an unreadable command", "an unknown action", "a command that is refused"],
)
async def test_a_refused_message_leaves_no_error_for_the_garbage_collector(
    service: ServiceUnderTest, incoming: Incoming
) -> None:
    """An error refers by its traceback to the frames that hold it: a flood of them would fill the memory."""

    def errors() -> int:
        return sum(isinstance(one, TowpathError | ValidationError) for one in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = errors()  # those that other tests of this process hold
        await service.dispatch(*[incoming] * 20)
        await asyncio.sleep(0)
        left = errors() - before
    finally:
        gc.enable()
    assert left < 20


async def test_a_service_does_not_handle_its_own_events(
    service: ServiceUnderTest,
) -> None:
    await service.dispatch(an_event("door.knocked", service="echo", text="a"))
    assert service.pushes() == []


# Completion


class Desk:
    """A dispatcher whose broker obeys the test, and ears on a gateway and on what is parked."""

    def __init__(
        self, broker: Broker, dispatcher: Dispatcher[Any], work: Subscription, ears: Subscription
    ) -> None:
        self._broker = broker
        self._dispatcher = dispatcher
        self._work = work
        self._ears = ears

    async def receive(self, command: Incoming, **headers: HeaderValue) -> Delivery:
        message = Message(body=command.item, app_id=command.app_id, headers=headers)
        await self._broker.publish("", command_queue("echo", 0), message, mandatory=True)
        return await self.next()

    async def next(self) -> Delivery:
        async with asyncio.timeout(PATIENCE):
            return await anext(self._work)

    async def dispatch(self, *deliveries: Delivery) -> Completion:
        async with asyncio.timeout(PATIENCE):
            return await dispatch(self._dispatcher, deliveries)

    async def heard(self) -> Delivery:
        async with asyncio.timeout(PATIENCE):
            delivery = await anext(self._ears)
        delivery.ack()
        return delivery

    async def waits(self, queue: str) -> list[str]:
        """Why each message that waits in a queue is there."""
        async with self._broker.browse(queue) as looking:
            return [str(delivery.headers["x-error"]) async for delivery in looking]

    async def answer(self) -> Envelope:
        [item] = read_directed((await self.heard()).body)
        return parse(bytes(item.envelope))


@pytest.fixture
async def desk(broker: Broker, telemetry: Telemetry) -> AsyncIterator[Desk]:
    settings = ServiceSettings(amqp_url="memory://")
    gateway = Inbox(name="gateway", bindings=[Binding(PUSH, connection_key(GATEWAY))])
    await broker.declare(topology(ECHO, settings.queue_max_length))
    async with (
        Publisher.open(broker, ECHO.name, settings, telemetry) as publisher,
        broker.subscribe(*work_queues(ECHO, settings.queue_max_length), prefetch=10) as work,
        broker.subscribe(gateway, Queue(name=dead_queue(ECHO.name)), prefetch=10) as ears,
    ):
        dispatcher: Dispatcher[Any] = Dispatcher(
            ECHO.tables,
            None,
            publisher,
            settings,
            telemetry,
        )
        beside = asyncio.create_task(dispatcher.run())
        yield Desk(broker, dispatcher, work, ears)
        beside.cancel()


async def test_a_command_answered_internal_is_parked_as_without_effect(desk: Desk) -> None:
    delivery = await desk.receive(a_command("echo.say", msg_id="m-1", text="poison"))
    await (await desk.dispatch(delivery))
    parked = await desk.heard()
    assert (parked.queue, parked.headers["x-reason"]) == (dead_queue("echo"), "failed")
    assert parked.headers["x-effect"] == "none"
    told = (await desk.answer()).data
    assert (told["code"], told["retryable"]) == ("internal", True)
    assert "ZeroDivision" not in told["message"]


async def test_a_delivery_is_acked_once_the_answer_is_confirmed(hub: MemoryHub, desk: Desk) -> None:
    delivery = await desk.receive(a_command("echo.say", msg_id="m-1", text="ahoy"))
    hub.hold_confirms()
    settling = asyncio.ensure_future(await desk.dispatch(delivery))
    assert (await desk.answer()).data["text"] == "ahoy"
    assert not settling.done()
    hub.release_confirms()
    async with asyncio.timeout(PATIENCE):
        await settling


async def test_unconfirmed_messages_are_published_again_after_a_reconnect(hub: MemoryHub, desk: Desk) -> None:
    delivery = await desk.receive(a_command("echo.say", msg_id="m-1", text="ahoy"))
    hub.stop()
    settling = asyncio.ensure_future(await desk.dispatch(delivery))
    hub.start()
    assert (await desk.answer()).data["text"] == "ahoy"
    async with asyncio.timeout(PATIENCE):
        await settling
    again = await desk.next()  # the first was stale: its connection had gone
    assert again.redelivered
    await (await desk.dispatch(again))
    assert (await desk.answer()).data["text"] == "ahoy"


async def test_a_large_batch_is_answered_completely(service: ServiceUnderTest) -> None:
    async with asyncio.timeout(20):
        await service.dispatch(*(a_command("echo.say", msg_id=f"m-{n}", text=str(n)) for n in range(1200)))
    assert all(service.answer(f"m-{n}").data["text"] == str(n) for n in range(1200))


# Poison


def end(request: Say, session: Session, _: None) -> Outcome:
    if request.text == "crash":
        os._exit(3)
    if request.text == "hang":
        while True:
            pass
    return Outcome(answer={"text": request.text})


class Fragile(Say):
    @field_validator("text")
    @classmethod
    def _breaks(cls, text: str) -> str:
        if text == "crash":
            os._exit(3)
        if text == "bug":
            raise KeyError("unforeseen")
        return text


def knocked(event: Say, _: None) -> Outcome:
    if event.text == "crash":
        os._exit(3)
    return Outcome(pushes=[to_everyone(make("brittle.heard", {"text": event.text}))])


BRITTLE: Final[Service[Any]] = Service(
    name="brittle",
    domain="brittle",
    commands={
        "brittle.say": Handler(Say, end),
        "brittle.ask": Handler(Say, end, changes=False),
        "brittle.read": Handler(Fragile, end),
    },
    events={"door.knocked": Handler(Say, knocked)},
)


@pytest.fixture
async def brittle() -> AsyncIterator[ServiceUnderTest]:
    async with ServiceUnderTest.running(BRITTLE, "sqlite+aiosqlite:///not-used.db") as service:
        yield service


@pytest.mark.parametrize("action", ["brittle.say", "brittle.ask"])
async def test_a_redelivered_request_that_crashes_the_program_is_parked(
    brittle: ServiceUnderTest, action: str
) -> None:
    texts = ["a", "crash", "b"]
    await brittle.dispatch(
        *(a_command(action, msg_id=f"m-{text}", text=text) for text in texts), redelivered=True
    )
    assert brittle.parked() == ["Poison: it ended the process with status 3"]
    assert brittle.error("m-crash") == ErrorCode.INTERNAL
    assert [brittle.answer(f"m-{text}").data["text"] for text in "ab"] == ["a", "b"]
    assert brittle.retried() == []


async def test_every_poison_of_a_batch_is_found(brittle: ServiceUnderTest) -> None:
    commands = [a_command("brittle.say", msg_id=f"m-{n}", text="crash" if n % 2 else "x") for n in range(6)]
    await brittle.dispatch(*commands, an_event("door.knocked", text="crash"), redelivered=True)
    assert len(brittle.parked()) == 4
    assert [brittle.answer(f"m-{n}").action for n in (0, 2, 4)] == ["brittle.say.ok"] * 3


async def test_an_action_that_crashed_runs_in_a_crash_probe_from_then_on(brittle: ServiceUnderTest) -> None:
    await brittle.dispatch(a_command("brittle.say", msg_id="m-1", text="crash"), redelivered=True)
    await brittle.dispatch(a_command("brittle.say", msg_id="m-2", text="crash"))  # and we are still here
    assert len(brittle.parked()) == 2
    await brittle.dispatch(a_command("brittle.say", msg_id="m-3", text="well"))
    assert brittle.answer("m-3").data["text"] == "well"


async def test_an_unexpected_error_of_a_validator_parks_only_its_item(
    brittle: ServiceUnderTest,
) -> None:
    await brittle.dispatch(
        *(a_command("brittle.read", msg_id=f"m-{text}", text=text) for text in ("a", "bug", "b"))
    )
    assert brittle.parked() == ["KeyError: '…'"]
    assert brittle.error("m-bug") == ErrorCode.INTERNAL
    assert [brittle.answer(f"m-{text}").data["text"] for text in "ab"] == ["a", "b"]


async def returned(desk: Desk, delivery: Delivery, times: int) -> Delivery:
    for _ in range(times):
        delivery.requeue()
        delivery = await desk.next()
    return delivery


async def test_a_delivery_redelivered_too_often_is_deferred_unread(desk: Desk) -> None:
    delivery = await desk.receive(a_command("echo.say", msg_id="m-1", text="ahoy"))
    delivery = await returned(desk, delivery, 5)
    await (await desk.dispatch(delivery))
    assert await desk.waits("echo.retry.5s") == [
        "RepeatedlyUnsettled: it was redelivered 5 times without being settled"
    ]


async def test_a_delivery_redelivered_too_often_is_parked_and_answered_after_the_last_delay(
    desk: Desk,
) -> None:
    delivery = await desk.receive(a_command("echo.say", msg_id="m-1", text="ahoy"), **{"x-attempt": 4})
    delivery = await returned(desk, delivery, 5)
    await (await desk.dispatch(delivery))
    parked = await desk.heard()
    assert (parked.queue, parked.headers["x-reason"]) == (dead_queue("echo"), "crashed")
    assert (await desk.answer()).data["code"] == "internal"


async def test_a_replayed_dead_letter_is_handled_like_a_new_request(desk: Desk) -> None:
    delivery = await desk.receive(a_command("echo.say", msg_id="m-1", text="ahoy"), **{"x-replayed": 1})
    await (await desk.dispatch(delivery))
    assert (await desk.answer()).data["text"] == "ahoy"


async def test_suspect_deliveries_are_each_settled_before_the_next(desk: Desk) -> None:
    first, second = [
        await returned(desk, await desk.receive(a_command("echo.say", msg_id=f"m-{n}", text=str(n))), times=2)
        for n in range(2)
    ]
    settling = asyncio.ensure_future(await desk.dispatch(first, second))
    told = [(await desk.answer()).data["text"] for _ in range(2)]
    await settling
    assert told == ["0", "1"]
    assert await desk.waits("echo.commands.0") == []


async def test_only_the_first_suspect_delivery_is_deferred(desk: Desk) -> None:
    both = [
        await returned(desk, await desk.receive(a_command("echo.say", msg_id=f"m-{n}", text=str(n))), times=5)
        for n in range(2)
    ]
    await (await desk.dispatch(*both))
    assert len(await desk.waits("echo.retry.5s")) == 1
    assert (await desk.answer()).data["text"] == "1"
