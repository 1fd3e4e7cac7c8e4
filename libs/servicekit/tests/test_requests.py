"""Requests: each item of a delivery becomes a request, a refusal, or unreadable; reading never fails."""

import json
from contextlib import nullcontext
from decimal import Decimal
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from towpath.protocol.envelope import make
from towpath.protocol.errors import BadEnvelope, Forbidden, InvalidData, UnknownAction, UnsupportedVersion
from towpath.protocol.fields import Json
from towpath.protocol.messages import Session, encode, join_batch, split_batch, wrap_command
from towpath.servicekit.broker.interface import Delivery, Queue
from towpath.servicekit.broker.memory_message import HeldMessage
from towpath.servicekit.broker.memory_queue import MemoryQueue, QueueConsumer
from towpath.servicekit.broker.memory_vhost import VirtualHost
from towpath.servicekit.handling.decoding import read_item
from towpath.servicekit.handling.outcome import Outcome
from towpath.servicekit.handling.requests import Handler, HandlerTables, Request, Unreadable
from towpath.servicekit.runtime.settings import TelemetrySettings
from towpath.servicekit.runtime.telemetry import Telemetry

Read = Request | Unreadable

TELEMETRY: Final = Telemetry("test", TelemetrySettings())
TRACE: Final = f"00-{'ab' * 16}-{'cd' * 8}-00"
#: Items from a retry queue: by the default exchange, under the queue's name.
RETRIED: Final[dict[str, Any]] = {"exchange": "", "x-attempt": 1}
ANA: Final = Session(user_id="ana", connection_id="c-1", gateway_id="gw-1")


class Put(BaseModel):
    model_config = ConfigDict(strict=True)

    name: str
    value: Json = None


def put(*_: Any) -> Outcome:
    return Outcome(answer={})


COMMANDS: Final = {"shelf.put": Handler(Put, put), "shelf.look": Handler(Put, put, changes=False)}
EVENTS: Final = {"shelf.fell": Handler(Put, put)}
TABLES: Final = HandlerTables("shelves", COMMANDS, EVENTS)


def a_delivery(
    body: bytes,
    *,
    queue: str = "shelves.commands.3",
    routing_key: str = "shelf.3",
    app_id: str | None = "backend",
    exchange: str = "exchange",
    **headers: Any,
) -> Delivery:
    """A delivery with ``body``."""
    delivered: list[Delivery] = []
    waiting = MemoryQueue(queue, Queue(name=queue), VirtualHost())
    waiting.attach(QueueConsumer(waiting, prefetch=1, deliver=delivered.append))
    waiting.push(HeldMessage(body, exchange, routing_key, True, app_id, headers))
    return delivered[0]


def an_event_delivery(body: bytes, routing_key: str = "shelf.fell", /, **options: Any) -> Delivery:
    return a_delivery(body, queue="shelves.events", routing_key=routing_key, **options)


def a_command(action: str = "shelf.put", *, session: Session = ANA, **data: Any) -> bytes:
    return wrap_command(encode(session), make(action, data or {"name": "cup"}, msg_id="m-1").to_json())


def read_all(delivery: Delivery) -> list[Read]:
    """The requests in a body; a body that is not a batch is one item, which then fails."""
    try:
        parts = split_batch(delivery.body)
    except BadEnvelope:
        parts = [delivery.body]
    read = [read_item(delivery, part, TABLES, TELEMETRY, nullcontext()) for part in parts]
    return [item for item in read if item is not None]


def read_one(delivery: Delivery) -> Read:
    [item] = read_all(delivery)
    return item


def refused(body: bytes) -> Request:
    item = read_one(a_delivery(body))
    assert isinstance(item, Request)
    assert item.refusal is not None
    return item


def unreadable(delivery: Delivery) -> Unreadable:
    item = read_one(delivery)
    assert isinstance(item, Unreadable)
    return item


# Commands


def test_a_command_becomes_a_request_of_its_sender() -> None:
    item = read_one(a_delivery(a_command(name="cup", value=[1])))
    assert isinstance(item, Request)
    assert item.handler is COMMANDS["shelf.put"]
    assert item.payload == Put(name="cup", value=[1])
    assert (item.session, item.key, item.sequence_key) == (ANA, ("user:ana", "m-1"), ("user:ana", "user:ana"))
    assert not item.is_redelivery


def test_the_ordering_key_is_the_clients_if_it_gives_one() -> None:
    envelope = make("shelf.put", {"name": "cup"}, key="kitchen")
    item = read_one(a_delivery(wrap_command(encode(ANA), envelope.to_json())))
    assert isinstance(item, Request)
    assert item.sequence_key == ("user:ana", "kitchen")


def test_a_batch_is_read_item_by_item_in_its_order() -> None:
    bodies = [a_command(name=name) for name in "abc"]
    items = read_all(a_delivery(join_batch([bodies[0], b"{}", a_command("shelf.paint"), *bodies[1:]])))
    assert [type(item) for item in items] == [Request, Unreadable, Request, Request, Request]
    requests = [item for item in items if isinstance(item, Request)]
    assert [request.refusal is None for request in requests] == [True, False, True, True]
    assert [request.payload.name for request in requests if request.refusal is None] == ["a", "b", "c"]


def test_an_unknown_action_is_refused() -> None:
    item = refused(a_command("shelf.paint"))
    assert isinstance(item.refusal, UnknownAction)
    assert (item.session, item.envelope.msg_id) == (ANA, "m-1")


@pytest.mark.parametrize("scope", ["", "chat", "shelves"])
def test_a_scope_that_does_not_name_the_domain_is_refused(scope: str) -> None:
    session = Session(user_id="ana", connection_id="c-1", gateway_id="gw-1", scope=scope)
    assert isinstance(refused(a_command(session=session)).refusal, Forbidden)


@pytest.mark.parametrize("scope", ["shelf", "chat shelf"])
def test_a_scope_that_names_the_domain_is_accepted(scope: str) -> None:
    session = Session(user_id="ana", connection_id="c-1", gateway_id="gw-1", scope=scope)
    assert isinstance(read_one(a_delivery(a_command(session=session))), Request)


def test_data_that_fails_its_model_is_refused_with_the_fields() -> None:
    error = refused(a_command(name=5, value=1)).refusal
    assert isinstance(error, InvalidData)
    assert error.details == {"fields": [{"field": "name", "problem": "Input should be a valid string"}]}
    assert error.message == "data refused: name: Input should be a valid string."


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"not json", BadEnvelope),
        (b'"text"', BadEnvelope),
        (b"{}", BadEnvelope),
        (b'[{"session":{}}]', BadEnvelope),
        (wrap_command(encode(ANA), b"{}"), BadEnvelope),
        (wrap_command(encode(ANA), b'{"version":"2.0"}'), UnsupportedVersion),
        (wrap_command(b'{"user_id":"ana"}', make("shelf.put").to_json()), BadEnvelope),
    ],
)
def test_an_invalid_command_is_unreadable(body: bytes, error: type[BadEnvelope]) -> None:
    assert type(unreadable(a_delivery(body)).error) is error


# Events


def test_an_event_becomes_a_request_of_its_sender() -> None:
    item = read_one(an_event_delivery(make("shelf.fell", {"name": "cup"}, msg_id="m-1").to_json()))
    assert isinstance(item, Request)
    assert (item.session, item.key) == (None, ("backend:backend", "m-1"))


def test_an_event_of_an_unknown_sender_is_keyed_as_anonymous() -> None:
    body = make("shelf.fell", {"name": "cup"}, msg_id="m-1").to_json()
    item = read_one(an_event_delivery(body, app_id=None))
    assert isinstance(item, Request)
    assert item.key == ("anonymous:exchange/shelf.fell/", "m-1")


def test_an_event_without_a_handler_is_left_out() -> None:
    body = make("shelf.painted", {"name": 5}).to_json()
    assert read_all(an_event_delivery(body, "shelf.painted")) == []


def test_an_event_under_a_foreign_routing_key_is_unreadable() -> None:
    body = make("shelf.fell", {"name": "cup"}).to_json()
    error = str(unreadable(an_event_delivery(body, "shelf.painted")).error)
    assert "shelf.fell" in error
    assert "shelf.painted" in error


def test_an_event_from_a_retry_queue_has_the_queues_name_as_its_routing_key() -> None:
    body = make("shelf.fell", {"name": "cup"}).to_json()
    item = read_one(an_event_delivery(body, "shelves.events", **RETRIED))
    assert isinstance(item, Request)
    assert item.is_redelivery


def test_a_sender_cannot_forge_that_an_event_comes_from_a_retry_queue() -> None:
    body = make("shelf.fell", {"name": "cup"}).to_json()
    forged = an_event_delivery(body, **{"x-attempt": 1, "x-replayed": 5})
    item = read_one(forged)
    assert isinstance(item, Request)
    assert not forged.redelivered or item.is_redelivery
    elsewhere = an_event_delivery(body, "shelf.broke", **{"x-attempt": 1})
    assert isinstance(unreadable(elsewhere).error, BadEnvelope)


def test_an_event_whose_data_fails_its_model_is_unreadable() -> None:
    assert isinstance(
        unreadable(an_event_delivery(make("shelf.fell", {"name": 5}).to_json())).error, InvalidData
    )


# Traces


def test_the_trace_of_an_event_continues_that_of_the_envelope_or_the_header_or_begins() -> None:
    with_one = make("shelf.fell", {"name": "cup"}, traceparent=TRACE).to_json()
    without = make("shelf.fell", {"name": "cup"}).to_json()
    other = TRACE.replace("ab", "ef")
    traces = [
        item.traceparent
        for delivery in (
            an_event_delivery(with_one, traceparent=other),
            an_event_delivery(without, traceparent=other),
            an_event_delivery(without, traceparent=7),
        )
        for item in read_all(delivery)
        if isinstance(item, Request)
    ]
    assert traces[:2] == [TRACE, other]
    assert traces[2] not in (TRACE, other)


# Whatever comes

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=6), values, max_size=3),
    max_leaves=8,
)
datas = st.fixed_dictionaries({"name": json_values}, optional={"value": json_values})
envelopes = st.fixed_dictionaries(
    {"msg_id": st.just("m-1"), "timestamp": st.just(1), "version": st.sampled_from(["1.0", "2.0", "x"])},
    optional={
        "action": st.sampled_from(["shelf.put", "shelf.fell", "shelf.paint", "ping", "x"]),
        "data": datas | json_values,
        "key": json_values,
        "traceparent": st.sampled_from([TRACE, "x", 5]),
    },
)
commands = st.fixed_dictionaries({"session": st.just({"user_id": "ana", "connection_id": "c", "gateway_id": "g"})
                                  | json_values, "envelope": envelopes})  # fmt: skip
texts = (commands | envelopes | json_values | st.lists(commands | envelopes, max_size=3)).map(json.dumps)
DEEP: Final = '{"x":' * 800 + "1.5" + "}" * 800


@given(texts.map(str.encode) | st.binary(max_size=40))
@example(
    wrap_command(
        encode(ANA), make("shelf.put", {"name": "cup"}).to_json()[:-1] + b',"data":1e99999999999999999999}'
    )
)
@example(a_command(name="cup", value=Decimal("1e99999999999")))
@example(
    wrap_command(encode(ANA), make("shelf.put").to_json().replace(b'"data":{}', b'"data":%s' % DEEP.encode()))
)
@example(
    make("shelf.fell").to_json().replace(b'"data":{}', b'"data":{"name":"cup","value":%s}' % DEEP.encode())
)
@example(
    make("shelf.fell")
    .to_json()
    .replace(b'"data":{}', b'"data":{"name":"cup","value":-1e-99999999999999999999}')
)
def test_nothing_that_arrives_makes_reading_fail(body: bytes) -> None:
    for delivery in (
        a_delivery(body),
        an_event_delivery(body),
        an_event_delivery(body, "shelves.events", **RETRIED),
    ):
        for item in read_all(delivery):
            if isinstance(item, Unreadable):
                assert str(item.error)
