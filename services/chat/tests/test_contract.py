"""The service publishes exactly the models that it declares."""

from typing import Any

from towpath.chat.app import CHAT
from towpath.testkit.dispatching import ServiceUnderTest, a_command

ROOM = "den"
#: Every action once, in an order that makes sense; with bob's where it takes two.
STORY: list[tuple[str, str, dict[str, Any]]] = [
    ("alice", "chat.create", {"room": ROOM, "title": "The den", "private": True}),
    ("alice", "chat.invite", {"room": ROOM, "user": "bob"}),
    ("bob", "chat.rooms", {}),
    ("bob", "chat.join", {"room": ROOM}),
    ("alice", "chat.send", {"room": ROOM, "text": "helo", "client_ref": "draft-1"}),
    ("alice", "chat.send", {"room": ROOM, "text": "oops"}),
    ("alice", "chat.edit", {"room": ROOM, "seq": 3, "text": "hello"}),
    ("alice", "chat.delete", {"room": ROOM, "seq": 4}),
    ("alice", "chat.direct", {"to": "bob", "text": "psst"}),
    ("bob", "chat.typing", {"room": ROOM}),
    ("bob", "chat.read", {"room": ROOM, "seq": 5}),
    ("bob", "chat.history", {"room": ROOM}),
    ("bob", "chat.members", {"room": ROOM}),
    ("bob", "chat.join", {"room": "market"}),
    ("bob", "chat.find", {"prefix": "m", "limit": 5}),
    ("bob", "chat.rooms", {}),
    ("bob", "chat.resume", {"positions": {"chat:den": 2}}),
    ("alice", "chat.transfer", {"room": ROOM, "user": "bob"}),
    ("bob", "chat.leave", {"room": ROOM}),
    ("alice", "chat.invite", {"room": ROOM, "user": "zoe"}),
    ("zoe", "chat.join", {"room": ROOM}),
    ("alice", "chat.remove", {"room": ROOM, "user": "zoe"}),
    ("alice", "chat.invite", {"room": ROOM, "user": "bob"}),
    ("bob", "chat.decline", {"room": ROOM}),
    ("bob", "chat.block", {"user": "alice"}),
    ("alice", "chat.direct", {"to": "bob", "text": "hidden"}),
    ("bob", "chat.blocked", {}),
    ("bob", "chat.history", {"room": "dm:alice:bob"}),
    ("bob", "chat.unblock", {"user": "alice"}),
    ("alice", "chat.drop", {"room": ROOM}),
]
#: Actions caused by connections and gateways.
BY_SIGNS = {"chat.presence", "chat.crowd"}


async def test_every_answer_and_push_fits_the_contract(chat: ServiceUnderTest) -> None:
    # `chat` raises on an answer or push that does not fit its declared model.
    for number, (user, action, data) in enumerate(STORY):
        await chat.dispatch(a_command(action, by=user, msg_id=f"m-{number}", **data))
        answer = chat.answer(f"m-{number}")
        assert answer.action == f"{action}.ok", answer.data
    assert {action for _, action, _ in STORY} == set(CHAT.commands)
    assert {push.action for push in chat.pushes()} == set(CHAT.pushes) - BY_SIGNS
