"""The right people: who may receive a frame, from what was published and from what chat has committed.

Guarantees: an envelope that was published to one user, connection or group counts as misdelivered on any other
connection; so does an answer on another connection than the asking one. A room's push may reach a user who was a
member when it was committed, or later: a new member gets what was committed before. A change in flight allows both.
"""

import sqlite3
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import msgspec

from towpath.chat.tables import BLOCKS, MEMBERS, ROOMS, STREAMS
from towpath.gateway.sessions.session import Session
from towpath.protocol.chat import STREAM_PREFIX, direct_users, is_direct
from towpath.protocol.messages import read_directed, split_batch
from towpath.protocol.routes import decode_word
from towpath.servicekit.broker.interface import Delivery

#: Changes that chat commits, in the order of its transactions: rows of gone rooms are deleted, and these stay.
_FOLLOWED: Final = f"""
CREATE TABLE followed (id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT, room TEXT, seq INTEGER, what BLOB);
CREATE TRIGGER follow_entries AFTER INSERT ON {STREAMS.entries.name} BEGIN
    INSERT INTO followed (kind, room, seq, what)
    VALUES ('entry', substr(NEW.stream, {len(STREAM_PREFIX) + 1}), NEW.seq, NEW.envelope); END;
CREATE TRIGGER follow_members AFTER INSERT ON {MEMBERS.name} BEGIN
    INSERT INTO followed (kind, room, what) VALUES ('in', NEW.room, NEW.user_id); END;
CREATE TRIGGER follow_leavers AFTER DELETE ON {MEMBERS.name} BEGIN
    INSERT INTO followed (kind, room, what) VALUES ('out', OLD.room, OLD.user_id); END;
CREATE TRIGGER follow_blocks AFTER INSERT ON {BLOCKS.name} BEGIN
    INSERT INTO followed (kind, room, what) VALUES ('block', NEW.user_id, NEW.blocked); END;
CREATE TRIGGER follow_unblocks AFTER DELETE ON {BLOCKS.name} BEGIN
    INSERT INTO followed (kind, room, what) VALUES ('unblock', OLD.user_id, OLD.blocked); END;
"""


class Memberships:
    """The members of each room, and until which entry of its stream former members were.

    Attributes:
        inside: By room.
        blocks: Pairs of a user and one whom they block.
        blocks_at_rest: Those that have lasted since :meth:`mark`.
    """

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.executescript(_FOLLOWED)
        self._last = 0
        self._heads: dict[str, int] = defaultdict(int)
        self._marked: dict[str, int] = {}
        self._until: dict[tuple[str, str], int] = {}
        self.inside: dict[str, set[str]] = defaultdict(set)
        self.blocks: set[tuple[str, str]] = set()
        self.blocks_at_rest: set[tuple[str, str]] = set()

    def close(self) -> None:
        self._database.close()

    def follow(self) -> None:
        """Read what was committed since the last call."""
        query = "SELECT id, kind, room, seq, what FROM followed WHERE id > ? ORDER BY id"
        changed: dict[tuple[str, str], bool] = {}
        for number, kind, room, seq, what in self._database.execute(query, (self._last,)).fetchall():
            self._last = number
            if kind == "entry":
                self._entry(room, seq, msgspec.json.decode(what))
            elif kind == "block":
                self.blocks.add((room, what))
            elif kind == "unblock":
                self.blocks.discard((room, what))
                self.blocks_at_rest.discard((room, what))
            else:
                changed[room, str(what)] = kind == "in"
        # Rooms of two have no entries about their members, and those of a dropped room are deleted with it.
        for (room, user), is_in in changed.items():
            if is_in:
                self.inside[room].add(user)
            else:
                self._leave(room, user, self._heads[room])

    def is_private(self, room: str) -> bool:
        """Whether there is a private room of this name."""
        query = f"SELECT 1 FROM {ROOMS.name} WHERE room = ? AND private"
        return self._database.execute(query, (room,)).fetchone() is not None

    def settle(self) -> None:
        """Nothing is under way: the members are those of the table.

        A join and the last leave of a private room in one unit of work leave the entry of the join, and no row.
        """
        self.inside.clear()
        for room, user in self._database.execute(f"SELECT room, user_id FROM {MEMBERS.name}"):
            self.inside[room].add(user)

    def mark(self) -> None:
        """Nothing is under way: from now on only members of this moment, and later ones, count."""
        self._marked = dict(self._heads)
        self.blocks_at_rest = set(self.blocks)

    def had(self, room: str, user: str, seq: int | None = None) -> bool:
        """Whether the user is in the room, or was at this entry or later; without one, since :meth:`mark`."""
        if user in self.inside[room]:
            return True
        return self._until.get((room, user), -1) >= (self._marked.get(room, 0) if seq is None else seq)

    def _entry(self, room: str, seq: int, envelope: dict[str, Any]) -> None:
        self._heads[room] = seq
        match envelope["action"]:
            case "chat.joined":
                self.inside[room].add(envelope["data"]["user"])
            case "chat.left":
                self._leave(room, envelope["data"]["user"], seq - 1)

    def _leave(self, room: str, user: str, until: int) -> None:
        if user in self.inside[room]:
            self.inside[room].discard(user)
            self._until[room, user] = until


class RightPeople:
    """The check of each frame.

    Attributes:
        asked: The connection of each request, by `msg_id`.
    """

    def __init__(self, memberships: Memberships) -> None:
        self.memberships = memberships
        self.asked: dict[str, str] = {}
        self._addressed: dict[str, set[tuple[str, str]]] = defaultdict(set)

    def learn(self, delivery: Delivery) -> None:
        """Read what was published to ``towpath.push``, and to whom."""
        kind, _, word = delivery.routing_key.partition(".")
        if kind == "revoke":
            return  # for gateways
        for item in split_batch(delivery.body):
            envelope: Any = msgspec.json.decode(item)
            addressed = (kind, decode_word(word))
            if kind in ("connection", "control"):
                directed = read_directed(item)[0]
                if not directed.envelope:
                    continue
                envelope = msgspec.json.decode(bytes(directed.envelope))
                # On `control.<user>` it goes to all connections of the user.
                addressed = (
                    ("user", addressed[1]) if kind == "control" else (kind, str(directed.connection_id))
                )
            self._addressed[envelope["msg_id"]].add(addressed)

    def forget(self) -> None:
        """Nothing is under way: what was published before is not delivered any more."""
        self.asked.clear()
        self._addressed.clear()
        self.memberships.mark()

    def why_wrong(self, session: Session, text: bytes) -> str | None:
        """Why this frame is not for this connection; ``None`` if it is."""
        envelope = msgspec.json.decode(text)
        if envelope["action"].startswith("session."):
            return None  # the gateway's own
        if (request := envelope.get("correlation_id")) is not None:
            asker = self.asked.get(request)
            return None if asker == session.connection_id else f"the answer to {request} is for {asker}"
        addressed = self._addressed.get(envelope["msg_id"], set())
        if not addressed:
            return f"{envelope['msg_id']} was never published"
        if any(self._is_for(session, kind, name, envelope) for kind, name in addressed):
            return self._why_blocked(session, envelope) or self._why_not_in_room(session, envelope)
        return f"{envelope['action']} is for {sorted(addressed)}"

    def _is_for(self, session: Session, kind: str, name: str, envelope: dict[str, Any]) -> bool:
        match kind:
            case "everyone":
                return True
            case "user":
                return session.user_id == name
            case "connection":
                return session.connection_id == name
            case _:
                room = name.removeprefix(STREAM_PREFIX)
                return self.memberships.had(room, session.user_id, envelope.get("seq"))

    def _why_blocked(self, session: Session, envelope: dict[str, Any]) -> str | None:
        """A user must not get direct messages, typing there or invitations of one whom they block."""
        data = envelope["data"]
        by = data.get("by") if envelope["action"] == "chat.invited" else data.get("user")
        if (session.user_id, by) not in self.memberships.blocks_at_rest:
            return None
        if envelope["action"] == "chat.invited":
            return f"an invitation by {by}, who is blocked"
        is_shown = envelope["action"] in ("chat.message", "chat.edited", "chat.typing", "chat.read")
        if is_shown and is_direct(data["room"]) and not data.get("hidden"):
            return f"{envelope['action']} of {by}, who is blocked"
        return None

    def _why_not_in_room(self, session: Session, envelope: dict[str, Any]) -> str | None:
        """A message that chat addressed to a user: the user has to be in its room as well."""
        if envelope["action"] != "chat.message":
            return None
        room, user = envelope["data"]["room"], session.user_id
        if is_direct(room):
            return None if user in direct_users(room) else f"a message between {direct_users(room)}"
        is_in = self.memberships.had(room, user, envelope["seq"])
        return None if is_in else f"{user} was not in {room} at {envelope['seq']}"
