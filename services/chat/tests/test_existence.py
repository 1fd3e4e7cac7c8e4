"""A user who is not in a room cannot learn whether it exists: answers about a private room and about none are equal.

Names of rooms are not secret: there is one space of names, so ``chat.create`` and ``chat.join`` have to refuse one
that is taken (docs/reference/protocol.md, "Chat").
"""

from typing import Any, Final

import pytest

from towpath.chat.app import CHAT
from towpath.testkit.dispatching import ServiceUnderTest, a_command

THEIRS: Final = "board"
NONE: Final = "hoard"
DIRECT: Final = ("dm:alice:bob", "dm:alice:cyd")
#: Actions that name a room, and their data beside its name.
NAMING_A_ROOM: Final[dict[str, dict[str, Any]]] = {
    "chat.leave": {},
    "chat.invite": {"user": "mallory"},
    "chat.send": {"text": "hello"},
    "chat.edit": {"seq": 3, "text": "hello"},
    "chat.delete": {"seq": 3},
    "chat.history": {},
    "chat.members": {},
    "chat.read": {"seq": 1},
    "chat.typing": {},
    "chat.decline": {},
    "chat.remove": {"user": "bob"},
    "chat.transfer": {"user": "alice"},
    "chat.drop": {},
}
#: Those that create a room or open one: their answers show whether a name is taken.
TELLING: Final = frozenset({"chat.create", "chat.join"})
#: Those that name no room.
NAMING_NONE: Final = frozenset(
    {"chat.rooms", "chat.direct", "chat.resume", "chat.block", "chat.unblock", "chat.blocked", "chat.find"}
)


@pytest.fixture(autouse=True)
async def a_private_room(chat: ServiceUnderTest) -> None:
    await chat.dispatch(
        a_command("chat.create", room=THEIRS, private=True),
        a_command("chat.invite", room=THEIRS, user="bob"),
        a_command("chat.send", room=THEIRS, text="hush"),
        a_command("chat.direct", to="bob", text="hush"),
    )
    chat.forget()


def test_every_action_is_listed_here() -> None:
    assert CHAT.commands.keys() == NAMING_A_ROOM.keys() | TELLING | NAMING_NONE


@pytest.mark.parametrize("action", NAMING_A_ROOM)
@pytest.mark.parametrize(("theirs", "none"), [(THEIRS, NONE), DIRECT])
async def test_an_answer_about_a_room_of_others_equals_one_about_no_room(
    chat: ServiceUnderTest, action: str, theirs: str, none: str
) -> None:
    for room in (theirs, none):
        await chat.dispatch(
            a_command(action, by="eve", on="c-9", msg_id=room, room=room, **NAMING_A_ROOM[action])
        )
    answers = [chat.answer(room) for room in (theirs, none)]
    assert [answer.action for answer in answers] == ["error", "error"]
    told = [{name: text for name, text in answer.data.items() if name != "trace_id"} for answer in answers]
    assert f"{told[0]}".replace(theirs, none) == f"{told[1]}"
    assert chat.pushes() == []


async def test_a_resume_of_a_stream_of_others_equals_one_of_no_stream(chat: ServiceUnderTest) -> None:
    for room in (THEIRS, NONE, *DIRECT):
        positions = {f"chat:{room}": 0}
        await chat.dispatch(a_command("chat.resume", by="eve", on="c-9", msg_id=room, positions=positions))
        assert chat.answer(room).action == "chat.resume.ok"
        assert chat.replayed("c-9") == []
    told = [f"{chat.answer(room).data}".replace(room, "room") for room in (THEIRS, NONE, *DIRECT)]
    assert len(set(told)) == 1


async def test_an_invitation_of_an_unknown_user_and_a_word_to_one_are_answered_as_for_a_known_one(
    chat: ServiceUnderTest,
) -> None:
    asked = [
        a_command(action, msg_id=f"{action}-{user}", **data)
        for user in ("cyd", "dan")
        for action, data in (
            ("chat.invite", {"room": THEIRS, "user": user}),
            ("chat.direct", {"to": user, "text": "hello"}),
        )
    ]
    # Of the two, cyd has been here.
    await chat.dispatch(a_command("chat.join", by="cyd", room="hall"))
    await chat.dispatch(*asked)
    for action in ("chat.invite", "chat.direct"):
        known, unknown = (chat.answer(f"{action}-{user}") for user in ("cyd", "dan"))
        clock = known.data.get("sent_at")
        told = f"{known.data}".replace("cyd", "dan").replace(f"{clock}", f"{unknown.data.get('sent_at')}")
        assert (known.action, told) == (unknown.action, f"{unknown.data}")
