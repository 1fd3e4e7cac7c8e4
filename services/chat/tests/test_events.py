"""Events out: other services learn of direct messages and invitations, without texts, and of none that is hidden."""

from towpath.protocol.chat import EVENTS_OUT
from towpath.testkit.dispatching import ServiceUnderTest, a_command


def sent(chat: ServiceUnderTest) -> list[dict[str, object]]:
    for event in chat.events():
        EVENTS_OUT[event.action].model_validate(event.data)
    return [{"action": event.action, **event.data} for event in chat.events()]


async def test_a_message_in_a_room_of_two_is_an_event_for_the_other_user(chat: ServiceUnderTest) -> None:
    await chat.dispatch(
        a_command("chat.direct", to="bob", text="a secret"),
        a_command("chat.send", by="bob", on="c-bob", room="dm:alice:bob", text="another secret"),
        a_command("chat.direct", to="alice", text="a note to myself"),
    )
    assert sent(chat) == [
        {"action": "chat.direct_sent", "user_id": "bob", "by": "alice", "room": "dm:alice:bob", "seq": 1},
        {"action": "chat.direct_sent", "user_id": "alice", "by": "bob", "room": "dm:alice:bob", "seq": 2},
    ]
    assert not [event for event in chat.events() if b"secret" in event.to_json()]


async def test_messages_in_other_rooms_are_not_events(chat: ServiceUnderTest) -> None:
    await chat.dispatch(
        a_command("chat.join", room="lobby"), a_command("chat.send", room="lobby", text="hello")
    )
    assert chat.events() == []


async def test_an_invitation_is_an_event_for_the_invited_user_once(chat: ServiceUnderTest) -> None:
    await chat.dispatch(
        a_command("chat.create", room="den", title="The den", private=True),
        a_command("chat.invite", room="den", user="bob"),
        a_command("chat.invite", room="den", user="bob"),
    )
    assert sent(chat) == [
        {
            "action": "chat.invitation_sent",
            "user_id": "bob",
            "by": "alice",
            "room": "den",
            "title": "The den",
        }
    ]


async def test_a_message_or_invitation_that_a_block_hides_is_not_an_event(chat: ServiceUnderTest) -> None:
    await chat.dispatch(
        a_command("chat.create", room="den", title="The den", private=True),
        a_command("chat.block", by="bob", on="c-bob", user="alice"),
    )
    await chat.dispatch(
        a_command("chat.direct", to="bob", text="hello", msg_id="m-1"),
        a_command("chat.send", room="dm:alice:bob", text="hello?", msg_id="m-2"),
        a_command("chat.invite", room="den", user="bob", msg_id="m-3"),
    )
    assert [chat.answer(f"m-{number}").action for number in (1, 2, 3)] == [
        "chat.direct.ok",
        "chat.send.ok",
        "chat.invite.ok",
    ]
    assert chat.events() == []
