"""Messages of chat, written to and read from its database: histories that take too long to create by requests."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Final

from towpath.protocol.envelope import make
from towpath.testkit.system import System

#: The largest replay of one resume, and the length of each text.
ENTRIES: Final = 5_000
_TEXT: Final = "x" * 4_000
_BATCH: Final = 10_000


def fill_room(system: System, room: str, members: list[str]) -> None:
    """A room of ``members`` with :data:`ENTRIES` messages of 4,000 letters."""
    stream, now = f"chat:{room}", time.time_ns() // 1_000_000
    with _chat(system) as chat:
        chat.execute(
            "INSERT INTO chat_rooms (room, created_at, private) VALUES (?, ?, ?)", (room, now, False)
        )
        chat.executemany(
            "INSERT INTO chat_members (room, user_id, read_seq) VALUES (?, ?, 0)",
            [(room, user) for user in members],
        )
        chat.execute("INSERT INTO chat_streams (stream, head) VALUES (?, ?)", (stream, ENTRIES))
        for seq in range(1, ENTRIES + 1):
            said = {"room": room, "seq": seq, "user": members[0], "text": _TEXT, "sent_at": now}
            push = make("chat.message", said, stream=stream, seq=seq).to_json().decode()
            chat.execute(
                "INSERT INTO chat_messages (room, seq, user_id, text, sent_at, size) VALUES (?, ?, ?, ?, ?, ?)",
                (room, seq, members[0], _TEXT, now, len(push)),
            )
            chat.execute(
                "INSERT INTO chat_stream_entries (stream, seq, envelope, created_at) VALUES (?, ?, ?, ?)",
                (stream, seq, push, now),
            )


def enter_rooms(system: System, user: str, count: int) -> None:
    """Make a user a member of that many rooms."""
    now = time.time_ns() // 1_000_000
    with _chat(system) as chat:
        for first in range(0, count, _BATCH):
            names = [f"{user}-of-many-{number:09}" for number in range(first, min(count, first + _BATCH))]
            chat.executemany(
                "INSERT INTO chat_rooms (room, created_at, private) VALUES (?, ?, ?)",
                [(name, now, False) for name in names],
            )
            chat.executemany(
                "INSERT INTO chat_members (room, user_id, read_seq) VALUES (?, ?, 0)",
                [(name, user) for name in names],
            )


def rooms_of(system: System, user: str) -> int:
    """How many rooms a user is in."""
    return _count(system, "SELECT count(*) FROM chat_members WHERE user_id = ?", user)


def invitations_of(system: System, user: str) -> int:
    """How many invitations a user has not taken yet."""
    return _count(system, "SELECT count(*) FROM chat_invitations WHERE user_id = ?", user)


def said(system: System, user: str, beginning: str) -> int:
    """How many messages of a user begin so."""
    return _count(
        system, "SELECT count(*) FROM chat_messages WHERE user_id = ? AND text LIKE ?", user, f"{beginning}%"
    )


def size_mib(system: System) -> float:
    """The size of chat's database on the disk, the log beside it included."""
    from pathlib import Path

    path = _path(system)
    return sum(part.stat().st_size for part in Path(path).parent.glob(f"{Path(path).name}*")) / 2**20


def _count(system: System, statement: str, *values: str) -> int:
    with _chat(system) as chat:
        return int(chat.execute(statement, values).fetchone()[0])


@contextmanager
def _chat(system: System) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(_path(system), timeout=30)) as connection, connection:
        yield connection


def _path(system: System) -> str:
    return system.chat.settings["TOWPATH_DATABASE_URL"].removeprefix("sqlite:///")
