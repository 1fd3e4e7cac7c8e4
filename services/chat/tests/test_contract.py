"""The service accepts and publishes exactly the models of the protocol."""

import json
from typing import Any

from towpath.chat.handlers import COMMANDS
from towpath.protocol.chat import ACTIONS, PUSHES
from towpath.protocol.envelope import Envelope
from towpath.protocol.fields import Payload
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


def is_exactly(model: type[Payload] | None, envelope: Envelope) -> bool:
    """Whether the data is of ``model``, with no field that it does not have."""
    if model is None:
        return not envelope.data
    read = model.model_validate_json(json.dumps(envelope.data))
    return read.model_dump(mode="json", exclude_none=True) == envelope.data


def test_the_service_takes_the_actions_of_the_protocol() -> None:
    assert {action: handler.model for action, handler in COMMANDS.items()} == {
        action: model for action, (model, _) in ACTIONS.items()
    }


async def test_every_answer_and_push_fits_the_contract(chat: ServiceUnderTest) -> None:
    for number, (user, action, data) in enumerate(STORY):
        await chat.dispatch(a_command(action, by=user, msg_id=f"m-{number}", **data))
        answer = chat.answer(f"m-{number}")
        assert answer.action == f"{action}.ok", answer.data
        assert is_exactly(ACTIONS[action][1], answer), answer
    assert {action for _, action, _ in STORY} == set(ACTIONS)
    pushes = chat.pushes()
    assert {push.action for push in pushes} == set(PUSHES) - BY_SIGNS
    for push in pushes:
        assert is_exactly(PUSHES[push.action], push), push
