"""The AsyncAPI 3.0 document (https://www.asyncapi.com/docs/reference/specification/v3.0.0).

Channels are the WebSocket endpoint and the routing keys of the three exchanges. The application of the document is
Towpath: it *receives* requests and the events that its services handle, and *sends* answers, pushes and events.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from towpath.protocol.close_codes import should_reconnect
from towpath.protocol.envelope import ACCEPTED, ERROR, Envelope
from towpath.protocol.fields import Empty
from towpath.protocol.gateway import CLOSES, ERRORS, ErrorData
from towpath.protocol.revocations import Kind as Revoked
from towpath.protocol.routes import COMMANDS, EVENTS, PARTITIONS, PUSH
from towpath.tools.contract import schemas
from towpath.tools.contract.catalogue import RECEIVED, Command, Kind, Message, Party
from towpath.tools.contract.schemas import Schema

ASYNCAPI: Final = "3.0.0"
WEBSOCKET: Final = "websocket"
_REF: Final = "#/components/schemas/{model}"
_ACCEPTED: Final = Message(Kind.ANSWER, ACCEPTED, "gateway", Empty)
_ERROR: Final = Message(Kind.ANSWER, ERROR, "gateway", ErrorData)

_ABOUT: Final = """\
Browsers and apps hold one WebSocket to a gateway; services and backends are behind RabbitMQ. Both carry the same
envelope. Every request of a client gets one final answer with its `msg_id` as `correlation_id`: `<action>.ok` or
`error`; with `"ack": true` an `accepted` comes before it. Readers ignore fields, pushes, error codes and close codes
that they do not know.

The body of a message on RabbitMQ is one item as described here, or a JSON array of such items: readers accept both.
"""
_PARAMETERS: Final = {
    "domain": "The first word of the action.",
    "partition": f"CRC-32 of the ordering key's UTF-8 bytes, modulo {PARTITIONS}: 0 to {PARTITIONS - 1}.",
    "user": "A user id, percent-encoded outside `A-Z a-z 0-9 _ - :`.",
    "group": "A group, percent-encoded as a user id; services name a group like its stream.",
    "gateway": "The id of a gateway's replica.",
}
#: Routing keys on ``towpath.push`` for plain envelopes, each with its receivers.
_PUSHED: Final = {
    "user": ("user.{user}", "All connections of a user."),
    "group": ("group.{group}", "All connections that are subscribed to a group."),
    "everyone": ("everyone", "All connections of all gateways."),
}
_DIRECTED: Final = {
    "connection": (
        "connection.{gateway}",
        "Items for connections of one gateway; each names its connection.",
    ),
    "control": ("control.{user}", "Items for all connections of a user; `connection_id` is left out."),
}


def document(parties: Sequence[Party], version: str) -> Schema:
    """The document.

    Args:
        version: Of the software that has this contract.
    """
    messages_sent = [_ACCEPTED, _ERROR, *(message for party in parties for message in party.messages)]
    data, definitions = schemas.of_messages(messages_sent, _REF)
    envelope = schemas.of_model(Envelope, "serialization", _REF)
    bodies = schemas.of_structs(_REF, {"$ref": "#/components/schemas/Envelope"})
    messages = {message.key: _message(message, data[message.key]) for message in messages_sent}
    messages |= _bodies()
    return {
        "asyncapi": ASYNCAPI,
        "id": "urn:towpath:contract",
        "info": {
            "title": "Towpath",
            "version": version,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0"},
            "tags": [{"name": party.domain or party.name} for party in parties],
        },
        "defaultContentType": "application/json",
        "servers": _servers(),
        "channels": _channels(parties),
        "operations": _operations(parties),
        "components": {
            "messages": dict(sorted(messages.items())),
            "schemas": dict(sorted((definitions | envelope | bodies).items())),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "account": {"type": "userPassword", "description": "An account of RabbitMQ."},
            },
        },
    }


def _servers() -> Schema:
    return {
        "gateway": {
            "host": "{host}",
            "protocol": "wss",
            "description": "Any gateway. Browsers send the token as a subprotocol, `towpath.token.<jwt>`, beside "
            "`towpath.v1`.",
            "variables": {
                "host": {"default": "example.org", "description": "Gateways, or what is before them."}
            },
            "security": [{"$ref": "#/components/securitySchemes/token"}],
        },
        "rabbitmq": {
            "host": "{host}",
            "protocol": "amqp",
            "protocolVersion": "0.9.1",
            "description": "RabbitMQ: for services and backends.",
            "variables": {"host": {"default": "rabbitmq:5672", "description": "A node of the cluster."}},
            "security": [{"$ref": "#/components/securitySchemes/account"}],
        },
    }


# Channels


def _channels(parties: Sequence[Party]) -> Schema:
    on_socket = [_ACCEPTED, _ERROR]
    on_socket += [message for party in parties for message in party.messages if _is_frame(message)]
    channels: Schema = {
        WEBSOCKET: {
            "address": "/ws",
            "title": "WebSocket of a gateway",
            "description": "Subprotocol `towpath.v1`. One text frame is one envelope.",
            "servers": [{"$ref": "#/servers/gateway"}],
            "messages": _refs(message.key for message in on_socket),
            "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
            "x-close-codes": [
                {"code": int(code), "reconnect": should_reconnect(code), "description": text}
                for code, text in CLOSES.items()
            ],
            "x-error-codes": [
                {"code": code.value, "retryable": code.retryable, "description": text}
                for code, text in ERRORS.items()
            ],
        },
        "commands": _exchange(
            COMMANDS,
            "{domain}.{partition}",
            "Requests of clients, for the service that owns the domain.",
            ["command"],
        ),
    }
    for action, messages in _by_event(parties).items():
        channels[f"event.{action}"] = _exchange(
            EVENTS, action, f"The event `{action}`.", [message.key for message in messages]
        )
    for name, (key, about) in _PUSHED.items():
        channels[f"push.{name}"] = _exchange(PUSH, key, about, ["pushed"])
    for name, (key, about) in _DIRECTED.items():
        channels[f"push.{name}"] = _exchange(PUSH, key, about, ["directed"])
    for kind in Revoked:
        channels[f"push.{kind.key}"] = _exchange(
            PUSH,
            kind.key,
            "Refuses tokens before they expire; gateways read them from a stream.",
            ["revocation"],
        )
    return channels


def _exchange(exchange: str, key: str, about: str, messages: Iterable[str]) -> Schema:
    channel: Schema = {
        "address": key,
        "description": about,
        "servers": [{"$ref": "#/servers/rabbitmq"}],
        "messages": _refs(messages),
        "bindings": {
            "amqp": {
                "is": "routingKey",
                "exchange": {
                    "name": exchange,
                    "type": "topic",
                    "durable": True,
                    "autoDelete": False,
                    "vhost": "/",
                },
                "bindingVersion": "0.3.0",
            }
        },
    }
    parameters = {name: {"description": text} for name, text in _PARAMETERS.items() if f"{{{name}}}" in key}
    return channel | ({"parameters": parameters} if parameters else {})


def _refs(keys: Iterable[str]) -> Schema:
    return {key: {"$ref": f"#/components/messages/{key}"} for key in keys}


def _is_frame(message: Message) -> bool:
    return message.kind in (Kind.REQUEST, Kind.ANSWER, Kind.PUSH)


def _by_event(parties: Sequence[Party]) -> Mapping[str, Sequence[Message]]:
    found: dict[str, list[Message]] = {}
    for party in parties:
        for message in (*party.heard, *party.published):
            found.setdefault(message.action, []).append(message)
    return dict(sorted(found.items()))


# Operations


def _operations(parties: Sequence[Party]) -> Schema:
    operations: Schema = {}
    for party in parties:
        tag = party.domain or party.name
        for command in party.commands:
            operations[command.request.key] = _request(command, tag)
        for message in party.pushes:
            operations[message.key] = _operation("send", WEBSOCKET, [message.key], [tag])
        for message in (*party.heard, *party.published):
            action = "receive" if message.kind in RECEIVED else "send"
            operations[message.key] = (
                _operation(action, f"event.{message.action}", [message.key], [tag]) | _AMQP
            )
    operations["command"] = _operation("send", "commands", ["command"]) | _AMQP
    for name in _PUSHED:
        operations[f"push.{name}"] = _operation("receive", f"push.{name}", ["pushed"])
    for name in _DIRECTED:
        operations[f"push.{name}"] = _operation("receive", f"push.{name}", ["directed"])
    for kind in Revoked:
        operations[kind.key] = _operation("receive", f"push.{kind.key}", ["revocation"]) | _AMQP
    return operations


#: Persistent, and returned while no queue is bound.
_AMQP: Final = {
    "bindings": {"amqp": {"deliveryMode": 2, "mandatory": True, "bindingVersion": "0.3.0"}},
}


def _request(command: Command, tag: str) -> Schema:
    operation = _operation("receive", WEBSOCKET, [command.request.key], [tag])
    answers = [command.answer, _ACCEPTED, _ERROR]
    operation["reply"] = {
        "channel": {"$ref": f"#/channels/{WEBSOCKET}"},
        "messages": [_of_channel(WEBSOCKET, answer.key) for answer in answers],
    }
    return operation | {"x-cost": command.cost}


def _operation(action: str, channel: str, messages: Sequence[str], tags: Sequence[str] = ()) -> Schema:
    operation: Schema = {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [_of_channel(channel, key) for key in messages],
    }
    return operation | ({"tags": [{"name": tag} for tag in tags]} if tags else {})


def _of_channel(channel: str, message: str) -> Schema:
    return {"$ref": f"#/channels/{channel}/messages/{message}"}


# Messages


def _message(message: Message, data: Schema) -> Schema:
    described: Schema = {
        "name": message.action,
        "title": f"{message.kind.capitalize()} {message.action}",
        "payload": {
            "allOf": [
                {"$ref": "#/components/schemas/Envelope"},
                {"type": "object", "properties": {"action": {"const": message.action}, "data": data}},
            ]
        },
    }
    if text := schemas.lead(message.model.__doc__ or ""):
        described["summary"] = text
    if message.kind is Kind.ANSWER:
        described["correlationId"] = {
            "description": "The `msg_id` of the request.",
            "location": "$message.payload#/correlation_id",
        }
    return described


def _bodies() -> Schema:
    return {
        "command": _body("Command", "A client's envelope, with the session that the gateway adds."),
        "directed": _body(
            "Directed", "Group changes, an envelope and a disconnect, carried out in this order."
        ),
        "revocation": _body("Revocation", "Tokens that gateways refuse from now on."),
        "pushed": {
            "name": "pushed",
            "title": "Any push",
            "summary": "A plain envelope of any action; gateways pass it on.",
            "payload": {"$ref": "#/components/schemas/Envelope"},
        },
    }


def _body(struct: str, about: str) -> Schema:
    return {
        "name": struct.lower(),
        "title": struct,
        "summary": about,
        "payload": {"$ref": f"#/components/schemas/Body.{struct}"},
    }
