"""Doors: each hostile input is refused, or reaches its own sender only."""

import asyncio
import json
import re
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, Literal

import pytest
from aiormq.exceptions import AMQPChannelError
from websockets.exceptions import InvalidHandshake, InvalidStatus

from tests.rights.conftest import Installation
from tests.rights.test_rights import MAY_NOT
from towpath.protocol.revocations import Kind, Revocation
from towpath.servicekit.broker.rabbitmq import RabbitBroker
from towpath.testkit.client import WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.system import System, url_of
from towpath.testkit.tokens import a_token

from .busy_world import publish_revocation
from .forgeries import forged_tokens
from .trial import Trial

pytestmark = pytest.mark.abuse_short

#: Characters that a subprotocol may have (RFC 9110, section 5.6.2): others cannot be sent by a browser at all.
_SUBPROTOCOL: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]*")
_ORIGIN: Final = "https://shop.example"
_ORIGINS: Final = (
    "https://evil.example", "http://shop.example", "https://shop.example.evil.example", "https://evilshop.example",
    "https://shop.example:444", "https://shop.example@evil.example", "https://shop.example%2eevil.example",
    "https://sub.shop.example", "https://shop.examplE.", "https://shop", "shop.example", "//shop.example",
    "null", "*",
    "", "file://", "data:", "about:blank", "chrome-extension://shop.example", "https://[::1]", "https://127.0.0.1",
    "https://shop.example/path", "https://shop.example https://evil.example",
    "https://shop.example,https://evil.example",
    "https://shop.example\\.evil.example", "https://shop.example#", "https://shop.example?", "HTTPS://EVIL.EXAMPLE",
    "wss://shop.example", "https://xn--shp-2na.example",
)  # fmt: skip
_USERS: Final = (
    "*", "#", "*.*", "ana.*", "ana.#", "#.ana", "ana.ana", ".ana", "ana.", "ANA", " ana", "ana ", "ana%2E", "%61na",
    "user.ana", "group.chat:den", "everyone", "connection.ana", "chat:den", "ana\u200b", "\u202eana", "аna",
    "ana/../bob",
    "ana,bob", "{username}", "%", "%%", "a%n", "ana:bob", "dm:ana:bob",
)  # fmt: skip
_CLAIMED: Final[tuple[dict[str, Any], ...]] = (
    {"session": {"user_id": "ana"}}, {"user": "ana"}, {"user_id": "ana"}, {"sub": "ana"}, {"sender": "ana"},
    {"from": "ana"}, {"identity": {"user_id": "ana"}}, {"connection_id": "c-1"}, {"gateway_id": "gw-1"},
    {"scope": None}, {"envelope": {"action": "ping"}}, {"__proto__": {"user": "ana"}},
    {"headers": {"x-sender": "ana"}},
    {"app_id": "gateway"}, {"correlation_id": "m-1"}, {"stream": "chat:den"}, {"seq": 1},
)  # fmt: skip
#: Tokens that are revoked.
_REVOKED: Final = 10


async def test_no_forged_token_lets_its_bearer_in(system: System, trial: Trial) -> None:
    async with (
        trial.door("a forged or wrong token: by header, by subprotocol, in session.refresh") as door,
        system.connect("ana") as ana,
    ):
        for trick, token in forged_tokens().items():
            door.refused(await _is_refused(system, token, "header"), f"{trick}, by header")
            if _SUBPROTOCOL.fullmatch(token):
                door.refused(await _is_refused(system, token, "subprotocol"), f"{trick}, by subprotocol")
            answer = await ana.request("session.refresh", {"token": token})
            door.refused(answer["action"] == "error", f"{trick}, in session.refresh")
        answer = await ana.request("session.refresh", {"token": a_token("bob")})
        door.refused(answer["data"].get("code") == "forbidden", "a refresh with the token of another user")
        door.expect((await ana.request("ping"))["action"] == "pong", "the honest connection was closed")


async def test_no_foreign_page_opens_a_connection(system: System, trial: Trial) -> None:
    gateway = system.launch_gateway(allowed_origins=_ORIGIN)
    try:
        await gateway.ready()
        async with trial.door("a page of another origin opens a WebSocket") as door:
            for origin in _ORIGINS:
                held = await _is_refused_at(url_of(gateway), token=a_token("ana"), origin=origin)
                door.refused(held, f"origin {origin!r}")
            async with WireClient.connect(url_of(gateway), token=a_token("ana"), origin=_ORIGIN):
                pass  # its own page may
    finally:
        await gateway.terminate()


async def test_no_user_does_or_reads_what_belongs_to_others(system: System, trial: Trial) -> None:
    async with (
        trial.door("a user does or reads what belongs to others: rooms, messages, orders") as door,
        system.connect("ana") as ana,
        system.connect("bob", gateway=1) as bob,
        system.connect("mallory") as mallory,
    ):
        await ana.request("chat.create", {"room": "den", "private": True}, key="den")
        await ana.request("chat.invite", {"room": "den", "user": "bob"}, key="den")
        await bob.request("chat.join", {"room": "den"}, key="den")
        sent = await ana.request("chat.send", {"room": "den", "text": "between us"}, key="den")
        direct = await ana.request("chat.direct", {"to": "bob", "text": "between us"})
        await ana.request("order.submit", {"order_id": "O-1", "amount": "9.00", "currency": "EUR"})
        for room in ("den", direct["data"]["room"]):
            for action, data in _on_a_room(room, sent["data"]["seq"]):
                answer = await mallory.request(action, data, key=room)
                door.refused(_reveals_nothing(answer, room), f"{action} in {room}: {answer['data']}")
        for action in ("order.get", "order.cancel"):
            answer = await mallory.request(action, {"order_id": "O-1"})
            door.refused(answer["data"].get("code") == "not_found", f"{action} of another: {answer['data']}")
            absent = await mallory.request(action, {"order_id": "O-2"})
            same = _without_ids(answer, "O-1") == _without_ids(absent, "O-2")
            door.refused(same, f"{action} shows that an order of another exists")
        listed = await mallory.request("order.list", {})
        door.refused(listed["data"]["orders"] == [], "order.list shows an order of another")
        rooms = await mallory.request("chat.rooms", {})
        door.refused(rooms["data"]["rooms"] == [], "chat.rooms shows a room of others")
        for owner in (ana, bob):
            touched = [frame for frame in owner.frames if "mallory" in json.dumps(frame)]
            door.expect(not touched, f"an owner got {touched[:1]}")
        heard = [frame for frame in mallory.frames if "between us" in json.dumps(frame)]
        door.expect(not heard, f"the outsider got {heard[:1]}")


async def test_no_field_of_an_envelope_changes_its_sender(system: System, trial: Trial) -> None:
    async with (
        trial.door("a field of an envelope claims another sender") as door,
        system.connect("mallory") as mallory,
        system.connect("watcher", gateway=1) as watcher,
    ):
        for client in (mallory, watcher):
            await client.request("chat.join", {"room": "square"}, key="square")
        for number, claimed in enumerate(_CLAIMED):
            for where in ("envelope", "data"):
                text = f"claim {number} in {where}"
                data = {"room": "square", "text": text, **(claimed if where == "data" else {})}
                fields = claimed if where == "envelope" else {}
                answer = await mallory.request("chat.send", data, **({"key": "square"} | fields))
                if answer["action"] == "error":
                    door.refused(True, text)
                    continue
                push = await _text(watcher, text)
                door.refused(push["data"]["user"] == "mallory", f"{claimed} in {where}")


async def test_no_name_reaches_the_pushes_of_another(system: System, trial: Trial) -> None:
    async with (
        trial.door("a user id like a routing key or like another's reads pushes of others") as door,
        system.connect("ana") as ana,
        system.connect("bob", gateway=1) as bob,
    ):
        for number, name in enumerate(_USERS):
            async with system.connect(name) as other:
                await bob.request("chat.direct", {"to": "ana", "text": f"first {number}"})
                await bob.request("chat.direct", {"to": name, "text": f"other {number}"})
                await _text(ana, f"first {number}")
                await _text(other, f"other {number}")
                door.refused("first" not in _texts(other), f"{name!r} got what was for ana")
                door.refused("other" not in _texts(ana), f"ana got what was for {name!r}")


@pytest.mark.asyncio(loop_scope="module")
async def test_no_account_does_what_only_another_may(installation: Installation, trial: Trial) -> None:
    async with trial.door(
        "an account at RabbitMQ publishes, reads, binds or deletes what is not its own"
    ) as door:
        for account, (operation, _) in ((account, row) for account, rows in MAY_NOT.items() for row in rows):
            what, run = operation
            channel = await installation.channel(account)
            try:
                await asyncio.wait_for(run(channel), 20)
            except AMQPChannelError:
                door.refused(True, what)  # by RabbitMQ itself, which closes the channel
            else:
                door.refused(False, f"{account}: {what}")
                await channel.close()


async def test_no_revoked_token_returns(system: System, trial: Trial) -> None:
    issued = int(time.time()) - 10
    tokens = {n: a_token(f"out-{n}", iat=issued, jti=f"{trial.seed}-{n}") for n in range(_REVOKED)}
    async with (
        trial.door("a revoked token returns: on any gateway, by a refresh, on one that starts later") as door,
        RabbitBroker.connect(system.rabbitmq.url, name="ops") as broker,
    ):
        await broker.until_ready()
        for number in tokens:
            await publish_revocation(broker, *_revocation(number, trial.seed, issued))
        for place in (0, 1):  # it is in effect on each once the last one is
            await eventually(partial(_is_refused, system, tokens[_REVOKED - 1], "header", place))
        late = system.launch_gateway()
        try:
            await late.ready()
            for number, token in tokens.items():
                user = f"out-{number}"
                for place in (0, 1):
                    door.refused(await _is_refused(system, token, "header", place), f"gateway {place}")
                    held = await _is_refused(system, token, "subprotocol", place)
                    door.refused(held, f"gateway {place} by subprotocol")
                door.refused(
                    await _is_refused_at(url_of(late), token=token), "the gateway that started later"
                )
                fresh = a_token(user, iat=int(time.time()) + 1, jti=f"{trial.seed}-new-{number}")
                async with WireClient.connect(system.urls[0], token=fresh) as client:
                    answer = await client.request("session.refresh", {"token": token})
                    door.refused(answer["action"] == "error", "a refresh of a new connection")
        finally:
            await late.terminate()


def _revocation(number: int, seed: str, issued: int) -> tuple[Kind, Revocation]:
    """Half of them name the token, half its user."""
    until = time.time() + 600
    if number % 2:
        return Kind.TOKEN, Revocation(until=until, token_id=f"{seed}-{number}")
    return Kind.USER, Revocation(until=until, user_id=f"out-{number}", before=issued)


async def _text(client: WireClient, text: str) -> dict[str, Any]:
    """The push with this text."""
    return await client.find(lambda frame: frame["data"].get("text") == text, what=f"push of {text!r}")


def _texts(client: WireClient) -> str:
    return " ".join(str(frame["data"].get("text")) for frame in client.frames)


async def _is_refused(
    system: System, token: str, via: Literal["header", "subprotocol"], gateway: int = 0
) -> bool:
    return await _is_refused_at(system.urls[gateway], token=token, via=via)


async def _is_refused_at(url: str, **options: Any) -> bool:
    """Whether a handshake is refused by the gateway, with a status of the contract."""
    try:
        async with asyncio.timeout(20), WireClient.connect(url, **options) as client:
            await client.next("session.welcome")
    except InvalidStatus as refusal:
        return refusal.response.status_code in (400, 401, 403, 431)
    except (InvalidHandshake, ValueError):
        return True  # not even a request
    return False


def _on_a_room(room: str, seq: int) -> Sequence[tuple[str, dict[str, Any]]]:
    return [
        ("chat.send", {"room": room, "text": "mallory was here"}),
        ("chat.edit", {"room": room, "seq": seq, "text": "mallory was here"}),
        ("chat.delete", {"room": room, "seq": seq}),
        ("chat.history", {"room": room}),
        ("chat.members", {"room": room}),
        ("chat.read", {"room": room, "seq": seq}),
        ("chat.typing", {"room": room}),
        ("chat.invite", {"room": room, "user": "mallory"}),
        ("chat.join", {"room": room}),
        ("chat.leave", {"room": room}),
        ("chat.remove", {"room": room, "user": "ana"}),
        ("chat.transfer", {"room": room, "user": "mallory"}),
        ("chat.drop", {"room": room}),
        ("chat.decline", {"room": room}),
        ("chat.create", {"room": room, "private": False}),
        ("chat.resume", {"positions": {f"chat:{room}": 0}}),
    ]


def _reveals_nothing(answer: dict[str, Any], room: str) -> bool:
    """An error; or what a resume of a stream that is not there is answered."""
    absent = {"streams": {f"chat:{room}": {"seq": 0, "complete": False}}}
    return bool(answer["action"] == "error" or answer["data"] == absent)


def _without_ids(answer: dict[str, Any], order_id: str) -> str:
    error = {name: value for name, value in answer["data"].items() if name != "trace_id"}
    return json.dumps(error, sort_keys=True).replace(order_id, "<id>")
