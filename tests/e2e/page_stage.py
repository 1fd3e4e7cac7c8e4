"""A stage for the page: its own server, and a gateway that plays a part.

A state of the page that takes a minute, a crowd or a fault to reach is there at once, and the same each time. What
the gateway says is made of the models of the contract, so it is nothing that a service could not say.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from aiohttp import web

from towpath.protocol import chat, orders
from towpath.protocol.envelope import Envelope, make
from towpath.protocol.fields import Payload
from towpath.protocol.messages import read_object
from towpath.testkit.processes import free_port
from towpath.testkit.tokens import SECRET
from towpath.tools.token import sign
from towpath.tools.web import Demo, Site, serve_site, web_folder

#: The moment at which every state is shown: 5 March 2026, 12:00 UTC.
NOON = 1_772_712_000_000
MINUTE = 60_000

#: A mapping is the data of an answer of a service that has no models here.
Answer: TypeAlias = "Payload | Mapping[str, Any] | Refused | None"


@dataclass(frozen=True)
class Refused:
    """An ``error``; without an answer to an action the service is not there."""

    code: str = "unknown_action"
    message: str = "No service has this action."
    retryable: bool = False


@dataclass
class World:
    """The data of the services.

    Attributes:
        me: The user of the page.
        rooms: As ``chat.rooms`` lists them.
        texts: The messages of each room: who wrote, and what.
        members: Of each room.
        open_rooms: The rooms that ``chat.find`` finds.
        moments: The states that each order went through, oldest first.
        answers: Instead of the usual ones, by action; ``None`` leaves the request unanswered.
    """

    me: str = "ana"
    rooms: list[chat.RoomSummary] = field(default_factory=list)
    texts: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    members: dict[str, list[tuple[str, bool]]] = field(default_factory=dict)
    crowds: dict[str, int] = field(default_factory=dict)
    open_rooms: list[chat.FoundRoom] = field(default_factory=list)
    invitations: list[chat.Invitation] = field(default_factory=list)
    moments: list[orders.OrderState] = field(default_factory=list)
    items: dict[str, list[orders.Item]] = field(default_factory=dict)
    answers: dict[str, Callable[[dict[str, Any]], Answer]] = field(default_factory=dict)

    def room(self, name: str, title: str = "", *, unread: int = 0, **more: Any) -> None:
        """Add a room that the user is in, with as many entries as it has texts, and a join."""
        seq = len(self.texts.get(name, [])) + 1
        summary = chat.RoomSummary(
            room=name, title=title or name, seq=seq, read_seq=max(0, seq - unread), unread=unread, **more
        )
        self.rooms.append(summary)

    def seen_by(self, user: str) -> "World":
        """The same for another user than ana."""
        if user != "ana":
            self.rooms = [
                room.model_copy(update={"owner": user}) if room.owner == "ana" else room
                for room in self.rooms
            ]
            self.members = {
                room: [(user if name == "ana" else name, online) for name, online in members]
                for room, members in self.members.items()
            }
            self.me = user
        return self

    def answer(self, action: str, data: dict[str, Any]) -> Answer:
        """The answer to a request; an action that is not here is of a service that is not there."""
        if action in self.answers:
            return self.answers[action](data)
        usual = _USUAL.get(action)
        return Refused() if usual is None else usual(self, data)


def _messages(world: World, room: str) -> list[chat.Message]:
    texts = world.texts.get(room, [])
    return [
        chat.Message(
            room=room, seq=number + 2, user=user, text=text, sent_at=NOON - (len(texts) - number) * MINUTE
        )
        for number, (user, text) in enumerate(texts)
    ]


def _head(world: World, room: str) -> int:
    """The position of a room's stream."""
    return len(world.texts.get(room, [])) + 1


def _members(world: World, data: dict[str, Any]) -> Answer:
    members = world.members.get(data["room"], [(world.me, True)])
    return chat.MemberList(
        room=data["room"],
        members=[chat.MemberState(user=user, online=online) for user, online in members],
        seq=_head(world, data["room"]),
        count=world.crowds.get(data["room"]),
    )


def _found(world: World, data: dict[str, Any]) -> Answer:
    prefix, limit = data.get("prefix", ""), data.get("limit", 20)
    rooms = sorted(
        (room for room in world.open_rooms if room.room.startswith(prefix)), key=lambda one: one.room
    )
    left = [room for room in rooms if room.room > data.get("cursor", "")]
    page = left[:limit]
    return chat.FoundRooms(rooms=page, cursor=page[-1].room if len(left) > limit else None)


def _order_page(world: World, _: dict[str, Any]) -> Answer:
    last: dict[str, orders.OrderState] = {}
    first: dict[str, int] = {}
    for moment in world.moments:
        last[moment.order_id] = moment
        first.setdefault(moment.order_id, moment.updated_at)
    views = [
        orders.OrderView(**moment.model_dump(), created_at=first[order], items=world.items.get(order))
        for order, moment in reversed(last.items())
    ]
    return orders.OrderPage(orders=views, seq=len(world.moments))


def _history(world: World, data: dict[str, Any]) -> Answer:
    if not any(summary.room == data["room"] for summary in world.rooms):
        return Refused("forbidden", f"You are not in room {data['room']!r}: join it first.")
    return chat.History(
        room=data["room"],
        messages=_messages(world, data["room"]),
        has_more=False,
        seq=_head(world, data["room"]),
    )


_USUAL: Mapping[str, Callable[[World, dict[str, Any]], Answer]] = {
    "chat.rooms": lambda world, _: chat.RoomList(rooms=world.rooms, invitations=world.invitations or None),
    "chat.blocked": lambda _, __: chat.BlockedList(users=[]),
    "chat.history": _history,
    "chat.members": _members,
    "chat.find": _found,
    "chat.read": lambda _, data: chat.ReadPosition(room=data["room"], seq=data["seq"]),
    "chat.decline": lambda _, data: chat.Declined(room=data["room"]),
    "order.list": _order_page,
}


class Stage:
    """One page's server and its gateway.

    Attributes:
        url: Of the page.
        world: The data of the services.
        asked: The actions that the page asked for, with their data.
    """

    def __init__(self, url: str, world: World) -> None:
        self.url = url
        self.world = world
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._sockets: set[web.WebSocketResponse] = set()
        self._is_open = True

    @classmethod
    @asynccontextmanager
    async def set(cls, world: World) -> AsyncIterator["Stage"]:
        """Everything is there, for one page."""
        gateway_port, page_port = free_port(), free_port()

        async def published(_: Envelope) -> None:
            return None

        stage = cls(f"http://127.0.0.1:{page_port}/", world)
        app = web.Application()
        app.router.add_get("/ws", stage._connect)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", gateway_port).start()
        site = Site(
            web_folder(),
            [f"ws://127.0.0.1:{gateway_port}/ws"],
            {"broker": "RabbitMQ 4.0.5", "database": "PostgreSQL 17"},
            Demo(lambda user, scope: sign(user, SECRET, scope=scope), published),
        )
        try:
            async with serve_site(site, "127.0.0.1", page_port, option="--port"):
                yield stage
        finally:
            await runner.cleanup()

    async def push(
        self,
        action: str,
        data: Payload | Mapping[str, Any],
        *,
        stream: str | None = None,
        seq: int | None = None,
    ) -> None:
        """Push to every connection."""
        envelope = make(action, _data(data))
        await self._send({**_plain(envelope), **({"stream": stream, "seq": seq} if stream else {})})

    async def fall(self, code: int = 1012, *, comes_back: bool = False) -> None:
        """Close every connection; later ones are refused unless it ``comes_back``."""
        self._is_open = comes_back
        for socket in list(self._sockets):
            await socket.close(code=code, message=b"the stage is dark")

    async def _connect(self, request: web.Request) -> web.WebSocketResponse:
        if not self._is_open:
            raise web.HTTPServiceUnavailable
        socket = web.WebSocketResponse(protocols=("towpath.v1",))
        await socket.prepare(request)
        self._sockets.add(socket)
        welcome = {
            "connection_id": "c-1", "user_id": self.world.me, "gateway_id": "gateway-1", "server_time": NOON,
            "heartbeat_ms": 25_000, "max_frame_bytes": 65_536, "version": "1.0",
        }  # fmt: skip
        await socket.send_json(_plain(make("session.welcome", welcome)))
        async for message in socket:
            await self._hear(socket, read_object(message.data.encode()))
        self._sockets.discard(socket)
        return socket

    async def _hear(self, socket: web.WebSocketResponse, request: dict[str, Any]) -> None:
        action, data = request["action"], request["data"]
        self.asked.append((action, data))
        if action.endswith(".resume"):
            await self._resume(socket, request)
            return
        answer = self.world.answer(action, data) if action != "ping" else None
        if action == "ping":
            envelope = make("pong", {})
        elif isinstance(answer, Refused):
            said = {"code": answer.code, "message": answer.message, "retryable": answer.retryable}
            envelope = make("error", said)
        elif answer is not None:
            envelope = make(f"{action}.ok", _data(answer))
        else:
            return
        await socket.send_json({**_plain(envelope), "correlation_id": request["msg_id"]})

    async def _resume(self, socket: web.WebSocketResponse, request: dict[str, Any]) -> None:
        """Replay the moments of orders; a room has nothing later than its position."""
        streams: dict[str, dict[str, Any]] = {}
        for stream, seq in request["data"]["positions"].items():
            entries = self.world.moments if stream == f"order:{self.world.me}" else []
            for number, moment in enumerate(entries[seq:], start=seq + 1):
                push = make("order.updated", moment.model_dump(mode="json", exclude_none=True))
                await socket.send_json({**_plain(push), "stream": stream, "seq": number})
            streams[stream] = {"seq": max(seq, len(entries)), "complete": True}
        answer = make(f"{request['action']}.ok", {"streams": streams})
        await socket.send_json({**_plain(answer), "correlation_id": request["msg_id"]})

    async def _send(self, envelope: dict[str, Any]) -> None:
        await asyncio.gather(*[socket.send_json(envelope) for socket in self._sockets])


def _data(answer: Payload | Mapping[str, Any]) -> dict[str, Any]:
    return answer.model_dump(mode="json", exclude_none=True) if isinstance(answer, Payload) else dict(answer)


def _plain(envelope: Envelope) -> dict[str, Any]:
    return {
        "msg_id": envelope.msg_id,
        "timestamp": envelope.timestamp,
        "action": envelope.action,
        "version": envelope.version,
        "data": envelope.data,
    }
