"""Any order of messages, edits, deletions, leaves, removals, drops and blocks: a deleted text stays deleted."""

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from towpath.chat.app import CHAT
from towpath.chat.gone import GoneRoomSweeper
from towpath.chat.tables import METADATA
from towpath.testkit.dispatching import Incoming, ServiceUnderTest, a_command

USERS: Final = ("alice", "bob", "zoe")
DEN, HALL, PAIR = "den", "hall", "dm:alice:bob"
ROOMS: Final = (DEN, HALL, PAIR)

users, rooms, numbers = st.sampled_from(USERS), st.sampled_from(ROOMS), st.integers(0, 30)
steps = st.one_of(
    st.tuples(st.just("say"), users, rooms),
    st.tuples(st.just("say"), users, rooms),
    st.tuples(st.just("edit"), numbers, numbers),
    st.tuples(st.just("edit"), numbers, numbers),
    st.tuples(st.just("delete"), numbers, numbers),
    st.tuples(st.just("create"), users, st.booleans()),
    st.tuples(st.just("join"), users, st.sampled_from((DEN, HALL))),
    st.tuples(st.just("leave"), users, st.sampled_from((DEN, DEN, HALL))),
    st.tuples(st.just("invite"), users, users),
    st.tuples(st.just("decline"), users, users),
    st.tuples(st.just("remove"), users, users),
    st.tuples(st.just("transfer"), users, users),
    st.tuples(st.just("drop"), users, users),
    st.tuples(st.just("block"), st.sampled_from(("alice", "bob")), st.booleans()),
    st.tuples(st.just("again"), numbers, st.booleans()),
)
#: Batches; after each, all is looked at, and with True what is left of rooms that are gone is deleted.
stories = st.lists(st.tuples(st.lists(steps, min_size=1, max_size=8), st.booleans()), min_size=1, max_size=8)


@dataclass
class Said:
    room: str
    seq: int
    author: str
    text: str
    hidden_from: str | None = None


@dataclass
class Place:
    """A room as people know it."""

    is_private: bool = False
    exists: bool = False
    members: set[str] = field(default_factory=set)


@dataclass
class Story:
    """The expected state by the answers: existing texts, deleted texts, and those of deleted rooms."""

    chat: ServiceUnderTest
    said: dict[tuple[str, int], Said] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    unseen: set[str] = field(default_factory=set)
    places: dict[str, Place] = field(default_factory=lambda: {room: Place() for room in ROOMS})
    blocks: set[tuple[str, str]] = field(default_factory=set)
    sent: list[tuple[Incoming, str]] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    async def tell(self, batch: list[tuple[Any, ...]]) -> None:
        """Run a batch; every command has one ordering key, so they are handled in their order."""
        self.chat.forget()
        asked: list[tuple[str, dict[str, Any], str]] = []
        for step in batch:
            if step[0] == "again":
                await self._take(asked)
                asked = []
                await self._again(step[1], redelivered=step[2])
            elif (command := self._command(*step)) is not None:
                asked.append(command)
        await self._take(asked)

    async def _take(self, asked: list[tuple[str, dict[str, Any], str]]) -> None:
        commands = []
        for number, (action, data, by) in enumerate(asked):
            msg_id = f"m-{len(self.sent) + number}"
            commands.append((a_command(action, by=by, key="story", msg_id=msg_id, **data), msg_id))
        if not commands:
            return
        self.chat.forget()
        await self.chat.dispatch(*[command for command, _ in commands])
        self.sent += commands
        for (action, data, by), (_, msg_id) in zip(asked, commands, strict=True):
            answer = self.chat.answer(msg_id)
            self.answers[msg_id] = answer
            if answer.action != "error":
                self._became(action, data, by, answer.data)

    async def _again(self, number: int, *, redelivered: bool) -> None:
        if not self.sent:
            return
        command, msg_id = self.sent[number % len(self.sent)]
        self.chat.forget()
        await self.chat.dispatch(command, redelivered=redelivered)
        assert self.chat.answer(msg_id) == self.answers[msg_id]
        self._nothing_gone_in(str(self.chat.heard))

    def _command(self, what: str, *more: Any) -> tuple[str, dict[str, Any], str] | None:
        text = f"text {next(self.numbers)}."
        if what in ("edit", "delete"):
            if not self.said:
                return None
            said = list(self.said.values())[more[0] % len(self.said)]
            by = said.author if more[1] else USERS[more[0] % 3]
            data = {"room": said.room, "seq": said.seq}
            return f"chat.{what}", data | ({"text": text} if what == "edit" else {}), by
        by, other = more
        if what == "block":
            action = "chat.block" if other else "chat.unblock"
            return action, {"user": "bob" if by == "alice" else "alice"}, by
        if what == "say" and other == PAIR and by != "zoe":
            return "chat.direct", {"to": "bob" if by == "alice" else "alice", "text": text}, by
        return {
            "say": ("chat.send", {"room": other, "text": text}, by),
            "create": ("chat.create", {"room": DEN, "private": other}, by),
            "join": ("chat.join", {"room": other}, by),
            "leave": ("chat.leave", {"room": other}, by),
            "invite": ("chat.invite", {"room": DEN, "user": other}, by),
            "decline": ("chat.decline", {"room": DEN}, by),
            "remove": ("chat.remove", {"room": DEN, "user": other}, by),
            "transfer": ("chat.transfer", {"room": DEN, "user": other}, by),
            "drop": ("chat.drop", {"room": DEN}, by),
        }[what]

    def _became(self, action: str, data: dict[str, Any], by: str, answer: dict[str, Any]) -> None:
        if action in ("chat.block", "chat.unblock"):
            change = self.blocks.add if action == "chat.block" else self.blocks.discard
            change((by, data["user"]))
            return
        room = answer["room"]
        place = self.places[room]
        reader = self._reader(room, by)
        match action:
            case "chat.send" | "chat.direct":
                assert place.members >= {by} or action == "chat.direct"
                if action == "chat.direct":
                    place.members = {"alice", "bob"}
                self.said[room, answer["seq"]] = Said(room, answer["seq"], by, data["text"], reader)
            case "chat.edit":
                said = self.said[room, data["seq"]]
                assert said.author == by
                self.gone.add(said.text)
                said.text = data["text"]
                said.hidden_from = reader or said.hidden_from
            case "chat.delete":
                said = self.said[room, data["seq"]]
                assert said.author == by
                assert said.text
                self.gone.add(said.text)
                said.text = ""
            case "chat.create":
                assert not place.exists
                place.is_private, place.exists, place.members = data["private"], True, {by}
            case "chat.join":
                place.exists = True
                place.members.add(by)
            case "chat.leave":
                place.members.remove(by)
                if place.is_private and not place.members:
                    self._is_gone(room)
            case "chat.remove":
                assert by in place.members
                place.members.discard(data["user"])
            case "chat.transfer":
                assert {by, data["user"]} <= place.members
            case "chat.drop":
                assert by in place.members
                assert place.is_private
                self._is_gone(room)

    def _is_gone(self, room: str) -> None:
        self.places[room] = Place()
        for key in [key for key in self.said if key[0] == room]:
            self.unseen.add(self.said.pop(key).text)
        self.unseen.discard("")

    def _reader(self, room: str, by: str) -> str | None:
        """The user from whom a text of ``by`` is hidden."""
        other = "bob" if by == "alice" else "alice"
        return other if room == PAIR and (other, by) in self.blocks else None

    # Looking

    def _nothing_gone_in(self, shown: str) -> None:
        assert not [text for text in self.gone | self.unseen if text in shown]

    async def look(self, *, cleared: bool) -> None:
        """Every permitted reader sees the current state; no reader, and no table, has deleted texts."""
        if cleared:
            while await self.chat.turn(GoneRoomSweeper().round):
                pass
        rows = [str(row) for table in METADATA.sorted_tables for row in await self.chat.rows(table)]
        stored = "\n".join(rows)
        assert not [text for text in self.gone if text in stored]
        if cleared:
            assert not [text for text in self.unseen if text in stored]
        for user, room in itertools.product(USERS, ROOMS):
            await self._look_at(user, room)

    async def _look_at(self, user: str, room: str) -> None:
        self.chat.forget()
        stream = f"chat:{room}"
        await self.chat.dispatch(
            a_command("chat.history", by=user, room=room, limit=200, msg_id="history"),
            a_command("chat.resume", by=user, on="c-0", positions={stream: 0}, msg_id="all"),
        )
        if user not in self.places[room].members:
            assert self.chat.error("history") == "forbidden"
            told = {stream: {"seq": 0, "complete": False}}
            assert self.chat.answer("all").data == {"streams": told}
            assert self.chat.replayed("c-0") == []
            return
        said_here = [said for said in self.said.values() if said.room == room]
        true = {said.seq: "" if said.hidden_from == user else said.text for said in said_here}
        hidden = [said.text for said in said_here if said.hidden_from == user and said.text]
        assert not [text for text in hidden if text in str(self.chat.heard)]
        history = self.chat.answer("history").data
        assert {message["seq"]: message["text"] for message in history["messages"]} == true
        replayed = self.chat.replayed("c-0")
        for push in replayed:
            if push.action in ("chat.message", "chat.edited"):
                assert push.data["text"] == true[push.data["seq"]]
                assert push.data.get("deleted", False) is (push.data["text"] == "")
        self._nothing_gone_in(str(self.chat.heard))
        head = self.chat.answer("all").data["streams"][stream]
        if head["complete"]:
            assert [push.seq for push in replayed] == list(range(1, head["seq"] + 1))


async def run(story: list[tuple[list[tuple[Any, ...]], bool]], url: str) -> None:
    async with ServiceUnderTest.running(CHAT, url) as chat:
        told = Story(chat)
        for batch, cleared in story:
            await told.tell(batch)
            await told.look(cleared=cleared)


@settings(
    max_examples=20,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(stories)
async def test_a_deleted_text_never_reappears_in_any_story(
    story: list[tuple[list[tuple[Any, ...]], bool]],
) -> None:
    with TemporaryDirectory() as folder:
        await run(story, f"sqlite+aiosqlite:///{Path(folder) / 'towpath.db'}")


#: A story with every request, so that PostgreSQL sees each of the statements.
ALL_OF_IT: Final[list[tuple[list[tuple[Any, ...]], bool]]] = [
    ([("create", "alice", True), ("say", "alice", DEN), ("say", "alice", PAIR), ("edit", 0, 1)], False),
    ([("invite", "alice", "bob"), ("join", "bob", DEN), ("say", "bob", DEN), ("edit", 1, 1)], False),
    ([("edit", 0, 1), ("delete", 1, 1), ("again", 1, True), ("again", 3, True), ("again", 1, False)], False),
    ([("leave", "alice", DEN), ("leave", "bob", DEN), ("again", 1, True)], False),
    ([("join", "zoe", DEN), ("say", "zoe", DEN), ("again", 4, True), ("delete", 1, 1)], False),
    ([("leave", "zoe", DEN), ("join", "alice", DEN), ("again", 6, True), ("leave", "alice", DEN)], True),
    ([("block", "bob", True), ("say", "alice", PAIR), ("edit", 0, 1), ("say", "bob", PAIR)], False),
    ([("block", "bob", False), ("say", "alice", PAIR), ("say", "bob", PAIR), ("edit", 1, 1)], False),
    ([("create", "zoe", True), ("invite", "zoe", "bob"), ("decline", "bob", "bob")], False),
    ([("invite", "zoe", "alice"), ("join", "alice", DEN), ("say", "alice", DEN)], False),
    ([("transfer", "zoe", "alice"), ("remove", "alice", "zoe"), ("drop", "alice", "alice")], False),
    ([("again", 12, True), ("join", "bob", DEN), ("say", "bob", DEN)], True),
]


@pytest.mark.parametrize("batched", [True, False])
async def test_one_story_with_everything_in_it(database_url: str, batched: bool) -> None:
    story = ALL_OF_IT if batched else [([step], last) for batch, last in ALL_OF_IT for step in batch]
    await run(story, database_url)
