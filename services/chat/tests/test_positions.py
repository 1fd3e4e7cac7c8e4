"""An answer names the position that it includes, whatever is committed while it is read."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from towpath.chat.app import CHAT
from towpath.testkit.dispatching import ServiceUnderTest, a_command

ROOM = "weavers"
#: More than any of these reads has statements.
_MANY = 16


@pytest_asyncio.fixture
async def chat(database_url: str) -> AsyncIterator[ServiceUnderTest]:
    async with ServiceUnderTest.running(CHAT, database_url, replicas=2) as chat:
        await chat.dispatch(a_command("chat.join", room=ROOM))
        yield chat


async def ask(chat: ServiceUnderTest, action: str, **data: Any) -> dict[str, Any]:
    chat.forget()
    await chat.dispatch(a_command(action, msg_id="ask", **data))
    return chat.answer("ask").data


@pytest.mark.parametrize("action", ["chat.history", "chat.members", "chat.rooms"])
async def test_a_state_includes_every_entry_up_to_its_position(chat: ServiceUnderTest, action: str) -> None:
    # Entry 1 is alice's join. The others are one each.
    head = 1

    async def change() -> None:
        nonlocal head
        head += 1
        if action == "chat.members":
            await chat.dispatch(a_command("chat.join", by=f"user-{head:03}", room=ROOM), replica=1)
        else:
            written = a_command("chat.send", by="ben", room=ROOM, text=f"entry {head}", key=ROOM)
            await chat.dispatch(written, replica=1)

    if action != "chat.members":
        await chat.dispatch(a_command("chat.join", by="ben", room=ROOM))
        head = 2
    first = head
    asked = {} if action == "chat.rooms" else {"room": ROOM}
    for number in range(1, _MANY):
        with chat.before_statement(number, change) as statements:
            answer = await ask(chat, action, **asked)
        match action:
            case "chat.history":
                seq = answer["seq"]
                assert {message["seq"] for message in answer["messages"]} >= set(range(3, seq + 1))
            case "chat.members":
                seq = answer["seq"]
                assert len(answer["members"]) >= seq
            case _:
                (room,) = answer["rooms"]
                seq = room["seq"]
                assert room["unread"] >= seq - 2
        assert head - 1 <= seq <= head, f"before {statements[number - 1]}"
        if len(statements) < number:
            break
    assert head >= first + 2, "something was committed between two statements"
