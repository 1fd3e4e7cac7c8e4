"""A story in which alice does what a member can do to bob, and all bytes that she gets meanwhile."""

import re
from dataclasses import dataclass, field
from typing import Any, Final

from hypothesis import strategies as st

from towpath.testkit.dispatching import GATEWAY, Incoming, ServiceUnderTest, a_command, an_event

PAIR: Final = "dm:alice:bob"
STREAM: Final = f"chat:{PAIR}"
#: Ids and times that the service makes.
_MADE: Final = re.compile(
    rb'"(msg_id|traceparent|trace_id)":"[^"]*"|"(timestamp|sent_at|edited_at|deleted_at|as_of|retry_after_ms)":\d+'
)

numbers = st.integers(0, 9)
steps = st.one_of(
    st.tuples(st.just("direct")),
    st.tuples(st.just("direct")),
    st.tuples(st.just("send")),
    st.tuples(st.just("edit"), numbers),
    st.tuples(st.just("delete"), numbers),
    st.tuples(st.just("typing")),
    st.tuples(st.just("read"), numbers),
    st.tuples(st.just("history")),
    st.tuples(st.just("rooms")),
    st.tuples(st.just("members")),
    st.tuples(st.just("resume"), numbers),
    st.tuples(st.just("invite"), st.sampled_from(("den", "attic"))),
    st.tuples(st.just("zoe invites")),
    st.tuples(st.just("bob reads"), numbers),
    st.tuples(st.just("bob types")),
    st.tuples(st.just("again"), numbers, st.booleans()),
)
#: Batches.
stories = st.lists(st.lists(steps, min_size=1, max_size=6), min_size=1, max_size=6)

#: Every step, so that PostgreSQL sees each of the statements.
ALL_OF_IT: Final[list[list[tuple[Any, ...]]]] = [
    [("direct",), ("direct",), ("send",), ("typing",), ("members",), ("rooms",)],
    [("edit", 0), ("delete", 1), ("read", 9), ("history",), ("resume", 0), ("edit", 1)],
    [
        ("invite", "den"),
        ("invite", "den"),
        ("invite", "attic"),
        ("zoe invites",),
        ("bob reads", 9),
        ("bob types",),
    ],
    [
        ("again", 0, True),
        ("again", 2, True),
        ("again", 0, False),
        ("again", 6, True),
        ("direct",),
        ("edit", 2),
    ],
    [("resume", 0), ("history",), ("rooms",), ("again", 0, True), ("edit", 0), ("resume", 1)],
]


@dataclass
class Story:
    """One run of a story.

    Attributes:
        texts: The texts that alice has written since the story began.
        got: The bytes that alice got, batch by batch: by routing key, without ids and times.
        bob_got: The bytes that bob got, in the same form.
    """

    chat: ServiceUnderTest
    texts: list[str] = field(default_factory=list)
    got: list[dict[str, list[bytes]]] = field(default_factory=list)
    bob_got: list[dict[str, list[bytes]]] = field(default_factory=list)
    _sent: list[tuple[Incoming, str]] = field(default_factory=list)
    _posts: list[int] = field(default_factory=list)

    async def begin(self, *, blocked: str) -> None:
        """Alice and bob know each other, zoe and alice share private rooms; then bob blocks ``blocked``."""
        for by, action, data in (
            ("alice", "chat.direct", {"to": "bob", "text": "long ago"}),
            ("bob", "chat.direct", {"to": "alice", "text": "an answer"}),
            ("alice", "chat.create", {"room": "den", "private": True}),
            ("alice", "chat.create", {"room": "attic", "private": True}),
            ("alice", "chat.invite", {"room": "den", "user": "zoe"}),
            ("zoe", "chat.join", {"room": "den"}),
            ("bob", "chat.block", {"user": blocked}),
        ):
            await self.chat.dispatch(self._command(by, action, data))
        self._posts.append(1)
        for user in ("alice", "bob"):
            event = {"user_id": user, "connection_id": f"c-{user}", "gateway_id": GATEWAY}
            await self.chat.dispatch(an_event("session.started", msg_id=f"s-{user}", **event))

    async def tell(self, story: list[list[tuple[Any, ...]]]) -> None:
        for batch in story:
            self.chat.forget()
            for number, step in enumerate(batch):
                if step[0] == "again":
                    await self._again(*step[1:])
                else:
                    await self._take(step, f"{len(self.got)}-{number}")
            self.got.append(self.heard_by("alice"))
            self.bob_got.append(self.heard_by("bob"))

    async def tell_together(self, story: list[list[tuple[Any, ...]]]) -> None:
        """Each batch of the story as one batch of the service."""
        for batch in story:
            self.chat.forget()
            commands = [
                self._made(step, f"{len(self.got)}-{number}")
                for number, step in enumerate(batch)
                if step[0] != "again"
            ]
            await self.chat.dispatch(*commands)
            self._learn()
            self.got.append(self.heard_by("alice"))
            self.bob_got.append(self.heard_by("bob"))

    def heard_by(self, user: str) -> dict[str, list[bytes]]:
        """The bytes that the connection of ``user`` gets, by routing key."""
        found: dict[str, list[bytes]] = {}
        groups = {"alice": ("group.chat:den", "group.chat:attic"), "bob": ()}[user]
        for heard in self.chat.heard:
            to_connection = f'"connection_id":"c-{user}"'.encode() in heard.item
            if heard.routing_key in (f"user.{user}", f"control.{user}", *groups) or to_connection:
                found.setdefault(heard.routing_key, []).append(_MADE.sub(b"", heard.item))
        return found

    async def _take(self, step: tuple[Any, ...], msg_id: str) -> None:
        await self.chat.dispatch(self._made(step, msg_id))
        self._learn()

    def _made(self, step: tuple[Any, ...], msg_id: str) -> Incoming:
        command = self._command_of(*step, msg_id=msg_id)
        if step[0] not in ("zoe invites", "bob reads", "bob types"):
            self._sent.append((command, msg_id))
        return command

    def _learn(self) -> None:
        for heard in self.chat.heard:
            if b'"action":"chat.message"' in heard.item and heard.routing_key == "user.alice":
                data = heard.envelope.data
                if data["user"] == "alice" and data["seq"] not in self._posts:
                    self._posts.append(data["seq"])

    async def _again(self, number: int, redelivered: bool) -> None:
        if self._sent:
            command, _ = self._sent[number % len(self._sent)]
            await self.chat.dispatch(command, redelivered=redelivered)

    def _command_of(self, what: str, *more: Any, msg_id: str) -> Incoming:
        text = f"text {msg_id}."
        if what in ("direct", "send", "edit"):
            self.texts.append(text)
        seq = self._posts[more[0] % len(self._posts)] if what in ("edit", "delete") else 0
        table: dict[str, tuple[str, str, dict[str, Any]]] = {
            "direct": ("alice", "chat.direct", {"to": "bob", "text": text}),
            "send": ("alice", "chat.send", {"room": PAIR, "text": text, "client_ref": f"ref {text}"}),
            "edit": ("alice", "chat.edit", {"room": PAIR, "seq": seq, "text": text}),
            "delete": ("alice", "chat.delete", {"room": PAIR, "seq": seq}),
            "typing": ("alice", "chat.typing", {"room": PAIR}),
            "read": ("alice", "chat.read", {"room": PAIR, "seq": more[0] if more else 0}),
            "history": ("alice", "chat.history", {"room": PAIR, "limit": 200}),
            "rooms": ("alice", "chat.rooms", {}),
            "members": ("alice", "chat.members", {"room": PAIR}),
            "resume": ("alice", "chat.resume", {"positions": {STREAM: more[0] if more else 0}}),
            "invite": ("alice", "chat.invite", {"room": more[0] if more else "den", "user": "bob"}),
            "zoe invites": ("zoe", "chat.invite", {"room": "den", "user": "bob"}),
            "bob reads": ("bob", "chat.read", {"room": PAIR, "seq": more[0] if more else 0}),
            "bob types": ("bob", "chat.typing", {"room": PAIR}),
        }
        by, action, data = table[what]
        return self._command(by, action, data, msg_id)

    def _command(self, by: str, action: str, data: dict[str, Any], msg_id: str | None = None) -> Incoming:
        return a_command(action, by=by, on=f"c-{by}", key="story", msg_id=msg_id, **data)
