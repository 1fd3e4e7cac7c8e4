"""Notifications in the app: one for each topic, in the person's language, with a position and an unread count."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from towpath.notifications.app import NOTIFICATIONS
from towpath.notifications.domain import DAY_MS
from towpath.notifications.retention import forget
from towpath.notifications.tables import ITEMS, PEOPLE
from towpath.protocol.envelope import Envelope, now_ms
from towpath.testkit.dispatching import (
    Incoming,
    ServiceUnderTest,
    a_command,
    an_event,
    counted_statements,
)


def step(name: str, order: str = "O-1", user: str = "ana", **data: Any) -> Incoming:
    """An event of an order."""
    return an_event(f"order.{name}", order_id=order, user_id=user, **data)


def shown(envelopes: Sequence[Envelope]) -> list[tuple[Any, ...]]:
    return [(one.data["seq"], one.data["kind"], one.data["title"]) for one in envelopes]


async def page(service: ServiceUnderTest, msg_id: str, user: str = "ana", **data: Any) -> dict[str, Any]:
    await service.dispatch(a_command("notification.list", by=user, msg_id=msg_id, **data))
    return dict(service.answer(msg_id).data)


async def test_each_step_of_an_order_is_pushed_once_and_listed(notifications: ServiceUnderTest) -> None:
    await notifications.dispatch(
        step("created", amount="9.90", currency="EUR"), step("confirmed"), step("created", user="ben")
    )
    await notifications.dispatch(step("paid"), step("confirmed"), step("created", order="O-2"))
    pushes = notifications.pushes("user.ana", action="notification.new")
    assert shown(pushes) == [
        (1, "order.created", "Order O-1 received"),
        (2, "order.confirmed", "Order O-1 confirmed"),
        (3, "order.paid", "Order O-1 paid"),
        (4, "order.created", "Order O-2 received"),
    ]
    assert pushes[0].data["text"] == "We have your order over 9.90 EUR."
    assert pushes[0].data["link"] == "order/O-1"
    assert [(push.stream, push.seq) for push in pushes] == [("notification:ana", seq) for seq in (1, 2, 3, 4)]
    answer = await page(notifications, "m-1")
    assert [one["seq"] for one in answer["notifications"]] == [4, 3, 2, 1]
    assert answer["notifications"][0] == pushes[-1].data
    assert (answer["seq"], answer["read_seq"], answer["unread"], answer["has_more"]) == (4, 0, 4, False)
    assert [one["title"] for one in (await page(notifications, "m-2", "ben"))["notifications"]] == [
        "Order O-1 received"
    ]


async def test_an_event_that_is_redelivered_or_sent_twice_notifies_once(
    notifications: ServiceUnderTest,
) -> None:
    paid = step("paid", revision=2)
    await notifications.dispatch(paid)
    await notifications.dispatch(paid, redelivered=True)
    await notifications.dispatch(step("paid", revision=2), step("paid", revision=3))
    assert {push.seq for push in notifications.pushes("user.ana")} == {1}
    assert (await page(notifications, "m-1"))["seq"] == 1


@pytest.mark.parametrize("decision", ["confirmed", "rejected"])
@pytest.mark.parametrize("together", [True, False])
async def test_a_decision_that_arrives_after_the_cancel_is_left_out(
    notifications: ServiceUnderTest, decision: str, together: bool
) -> None:
    late = [step("cancelled"), step(decision), step(decision, order="O-2"), step("cancelled", order="O-2")]
    for batch in [late] if together else [[one] for one in late]:
        await notifications.dispatch(*batch)
    found = [(one.data["link"], one.data["kind"]) for one in notifications.pushes("user.ana")]
    assert found == [
        ("order/O-1", "order.cancelled"),
        ("order/O-2", f"order.{decision}"),
        ("order/O-2", "order.cancelled"),
    ]


async def test_two_replicas_notify_once_about_one_step(database_url: str) -> None:
    async with ServiceUnderTest.running(NOTIFICATIONS, database_url, replicas=2) as service:
        await service.dispatch(step("paid"), replica=0)
        await service.dispatch(step("paid"), replica=1)
        await service.dispatch(step("shipped"), replica=1)
        assert [push.seq for push in service.pushes("user.ana")] == [1, 2]


async def test_the_events_of_our_own_orders_service_are_understood(on_sqlite: ServiceUnderTest) -> None:
    state: dict[str, Any] = {
        "status": "submitted",
        "revision": 1,
        "updated_at": 1,
        "amount": "12.00",
        "currency": "USD",
    }
    await on_sqlite.dispatch(
        an_event("order.created", service="orders", order_id="O-1", user_id="ana", **state),
        an_event("order.cancelled", service="orders", order_id="O-1", user_id="ana", detail="too late"),
        step("rejected", order="O-2", detail={"reason": "out_of_stock"}),
        step("rejected", order="O-3", detail={"reason": 7}),
        step("refunded", order="O-4", amount="1.50", currency="EUR", revision=4),
        step("refunded", order="O-4", amount="1.50", currency="EUR", revision=5),
    )
    assert [push.data["text"] for push in on_sqlite.pushes("user.ana")] == [
        "We have your order over 12.00 USD.",
        "Reason: too late",
        "Something you ordered is out of stock.",
        "We cannot deliver it.",
        "1.50 EUR will be paid back to you.",
        "1.50 EUR will be paid back to you.",
    ]
    assert on_sqlite.parked() == []


async def test_direct_messages_of_a_room_notify_once_until_they_are_read(
    notifications: ServiceUnderTest,
) -> None:
    def direct(seq: int, by: str = "ben") -> Incoming:
        return an_event("chat.direct_sent", user_id="ana", by=by, room=f"dm:ana:{by}", seq=seq)

    await notifications.dispatch(direct(1), direct(2), direct(1, by="cleo"))
    await notifications.dispatch(direct(3))
    await notifications.dispatch(a_command("notification.read", by="ana", up_to=2))
    await notifications.dispatch(direct(4), direct(5))
    pushes = notifications.pushes("user.ana", action="notification.new")
    assert shown(pushes) == [
        (1, "chat.direct", "ben wrote to you"),
        (2, "chat.direct", "cleo wrote to you"),
        (3, "chat.direct", "ben wrote to you"),
    ]
    assert pushes[0].data["link"] == "room/dm%3Aana%3Aben"


async def test_an_invitation_names_the_room_and_who_invites(on_sqlite: ServiceUnderTest) -> None:
    await on_sqlite.dispatch(
        an_event("chat.invitation_sent", user_id="ana", by="ben", room="lock-7", title="Lock 7")
    )
    (push,) = on_sqlite.pushes("user.ana")
    assert (push.data["title"], push.data["text"]) == (
        "ben invited you",
        "You are invited to the room Lock 7.",
    )


async def test_the_read_position_grows_and_all_connections_get_it(notifications: ServiceUnderTest) -> None:
    await notifications.dispatch(*(step("paid", order=f"O-{number}") for number in range(5)))
    for number, up_to in enumerate((3, 2, 99, 99)):
        await notifications.dispatch(
            a_command("notification.read", by="ana", up_to=up_to, msg_id=f"r-{number}")
        )
    answers = [notifications.answer(f"r-{number}").data for number in range(4)]
    assert [(one["read_seq"], one["unread"]) for one in answers] == [(3, 2), (3, 2), (5, 0), (5, 0)]
    pushes = notifications.pushes("user.ana", action="notification.read")
    assert [push.data for push in pushes] == [
        {"read_seq": 3, "unread": 2},
        {"read_seq": 5, "unread": 0},
    ], "a position that does not grow is not pushed"
    assert (await page(notifications, "m-1"))["unread"] == 0


async def test_pages_follow_each_other_without_a_gap(notifications: ServiceUnderTest) -> None:
    await notifications.dispatch(*(step("paid", order=f"O-{number}") for number in range(7)))
    seqs: list[int] = []
    before: dict[str, Any] = {}
    for number in range(3):
        answer = await page(notifications, f"m-{number}", limit=3, **before)
        seqs += [one["seq"] for one in answer["notifications"]]
        before = {"before_seq": seqs[-1]}
        assert answer["has_more"] == (number < 2)
        assert answer["seq"] == 7
    assert seqs == [7, 6, 5, 4, 3, 2, 1]


async def test_a_resume_replays_the_own_stream_only(notifications: ServiceUnderTest) -> None:
    await notifications.dispatch(step("paid"), step("shipped"), step("paid", user="ben"))
    positions = {"notification:ana": 1, "notification:ben": 0}
    await notifications.dispatch(
        a_command("notification.resume", by="ana", msg_id="m-1", positions=positions)
    )
    assert [entry.data["kind"] for entry in notifications.replayed()] == ["order.shipped"]
    assert notifications.answer("m-1").data["streams"] == {
        "notification:ana": {"seq": 2, "complete": True},
        "notification:ben": {"seq": 0, "complete": False},
    }


async def test_the_number_of_statements_does_not_grow_with_the_number_of_events(
    notifications: ServiceUnderTest,
) -> None:
    counts = []
    for users in (1, 30):
        events = [step("paid", user=f"user-{users}-{number}") for number in range(users)]
        sessions = [
            an_event(
                "session.started",
                user_id=f"user-{users}-{number}",
                connection_id=f"c-{users}-{number}",
                gateway_id="gw-1",
            )
            for number in range(users)
        ]
        with counted_statements() as statements:
            await notifications.dispatch(*events, *sessions)
        counts.append(len(statements))
    assert counts[0] == counts[1]


# Preferences


async def prefer(service: ServiceUnderTest, msg_id: str, user: str = "ana", **data: Any) -> dict[str, Any]:
    await service.dispatch(a_command("notification.preferences", by=user, msg_id=msg_id, **data))
    return dict(service.answer(msg_id).data)


async def test_preferences_are_changed_one_by_one_and_shown(notifications: ServiceUnderTest) -> None:
    default = await prefer(notifications, "m-1")
    assert default["language"] == "en"
    assert len(default["kinds"]) == 11
    assert "email" not in default
    await prefer(notifications, "m-2", email="ana@example.com")
    await prefer(notifications, "m-3", language="zh", kinds=["order.shipped"])
    assert await prefer(notifications, "m-4") == {
        "email": "ana@example.com",
        "language": "zh",
        "kinds": ["order.shipped"],
    }
    assert await prefer(notifications, "m-5", email=None, kinds=None) == {**default, "language": "zh"}
    assert await prefer(notifications, "m-6", user="ben") == default


async def test_notifications_are_in_the_language_of_the_person(on_sqlite: ServiceUnderTest) -> None:
    await prefer(on_sqlite, "m-1", language="zh")
    await on_sqlite.dispatch(step("shipped"), step("shipped", user="ben"))
    titles = {push.stream: push.data["title"] for push in on_sqlite.pushes(action="notification.new")}
    assert titles == {"notification:ana": "订单 O-1 已发货", "notification:ben": "Order O-1 shipped"}


@pytest.mark.parametrize(
    "email",
    [
        *("", "ana", "ana@", "@example.com", "ana@example", "ana@exa mple.com", "a@b@example.com"),
        *("ana@example.com\r\nBcc: all@example.com", "ana@example.com\n", "Ana <ana@example.com>"),
        *(
            "ana@-example.com",
            "a..b@example.com",
            ".a@example.com",
            "ana@例子.com",
            f"{'a' * 250}@example.com",
        ),
        *("ana,ben@example.com", "ana@example.com,ben@example.com", '"ana"@example.com', "ana@[127.0.0.1]"),
    ],
)
async def test_an_address_that_is_none_is_refused(email: str, on_sqlite: ServiceUnderTest) -> None:
    await on_sqlite.dispatch(a_command("notification.preferences", by="ana", msg_id="m-1", email=email))
    assert on_sqlite.error("m-1") == "invalid_data"
    assert await on_sqlite.rows(PEOPLE) == []


async def test_a_kind_or_language_that_does_not_exist_is_refused(on_sqlite: ServiceUnderTest) -> None:
    await on_sqlite.dispatch(
        a_command("notification.preferences", by="ana", msg_id="m-1", kinds=["order.eaten"]),
        a_command("notification.preferences", by="ana", msg_id="m-2", language="../en"),
    )
    assert [on_sqlite.error(msg_id) for msg_id in ("m-1", "m-2")] == ["invalid_data", "invalid_data"]


async def test_the_address_may_be_changed_a_few_times_a_day(notifications: ServiceUnderTest) -> None:
    for number in range(5):
        await prefer(notifications, f"m-{number}", email=f"ana{number}@example.com")
    await notifications.dispatch(
        a_command(
            "notification.preferences", by="ana", msg_id="m-5", email="more@example.com", language="zh"
        ),
        a_command("notification.preferences", by="ana", msg_id="m-6", email="ana4@example.com"),
    )
    assert notifications.error("m-5") == "rate_limited"
    assert notifications.answer("m-6").data["email"] == "ana4@example.com"
    assert (await prefer(notifications, "m-7"))["language"] == "en", "a refused change changes nothing"


async def test_an_operator_may_enter_addresses_with_sql(notifications: ServiceUnderTest) -> None:
    """The statement of docs/operations/notifications.md."""
    async with notifications.databases[0].transaction() as connection:
        await connection.execute(
            sa.text(
                "INSERT INTO notifications_people (user_id, email, language) "
                "VALUES ('ana', 'ana@example.com', 'zh') "
                "ON CONFLICT (user_id) DO UPDATE SET email = excluded.email, language = excluded.language"
            )
        )
    preferences = await prefer(notifications, "m-1")
    assert (preferences["email"], preferences["language"]) == ("ana@example.com", "zh")


# Retention


async def test_old_notifications_are_deleted_and_count_as_read(notifications: ServiceUnderTest) -> None:
    await notifications.dispatch(*(step("paid", order=f"O-{number}") for number in range(3)))
    async with notifications.databases[0].transaction() as connection:
        old = ITEMS.update().where(ITEMS.c.seq <= 2).values(created_at=now_ms() - 100 * DAY_MS)
        await connection.execute(old)
    assert await notifications.turn(partial(forget, seconds=90 * 86_400)) is False
    answer = await page(notifications, "m-1")
    assert [one["seq"] for one in answer["notifications"]] == [3]
    assert (answer["read_seq"], answer["unread"]) == (2, 1)
