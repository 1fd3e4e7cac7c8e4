"""Ids that senders choose: equal ones of different senders never meet, whatever the senders are called."""

import json
from collections.abc import Sequence
from typing import Any, Final

import aio_pika

from towpath.testkit.eventually import eventually
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System

from .answers import all_parked
from .evidence import Asked, Outcome
from .trial import Trial
from .workload import Load, Manner

#: Users whose ids look like the names by which services identify senders.
_USERS: Final = (
    *("ana", "billing", "orders", "chat", "gateway"),
    *("event:billing", "user:ana", "backend:billing", "service:orders", "backend:"),
    *("anonymous:towpath.events/order.paid/ana", "billing@guest"),
)
#: Each by its name in the table, with its ``app_id``; two are anonymous.
_BACKENDS: Final = {
    "backend-billing": "billing",
    "backend-warehouse": "warehouse",
    "backend-orders": "orders",
    "backend-chat": "chat",
    "backend-user": "user:ana",
    "backend-one": None,
    "backend-two": None,
}
_OPERATIONS: Final = 3000


async def test_senders_with_equal_ids_all_have_their_effects(
    system: System, rabbitmq: Rabbit, trial: Trial
) -> None:
    async with trial.of(
        f"{len(_USERS)} users and {len(_BACKENDS)} backends with equal msg_ids",
        system,
        may_refuse={"conflict"},
        users=_USERS,
        backends=_BACKENDS,
        manner=Manner(equal_ids=True),
    ) as load:
        before = load.counted()
        await load.flows(_OPERATIONS, timeout=120)
        trial.note(f"at {load.counted().rate(before)}")
        await load.rest()
        for user in _USERS:
            await _asks_otherwise(system, load, user)
        published = await _publish_otherwise(rabbitmq.url, load)

        async def are_parked() -> bool:
            parked = await all_parked(rabbitmq.url, "orders")
            return sorted(one.msg_id for one in parked if one.headers["x-reason"] == "conflict") == published

        await eventually(are_parked, timeout=20, every=0.2)
        assert await all_parked(rabbitmq.url, "chat") == []


def _first(load: Load, who: str, action: str) -> Asked:
    """The first operation of this kind that was done."""
    return next(
        one for one in load.journal.asked if (one.who, one.action, one.outcome) == (who, action, Outcome.DONE)
    )


async def _asks_otherwise(system: System, load: Load, user: str) -> None:
    """A user asks for something else under ids that were used: that is a conflict, and has no effect."""
    said, ordered = _first(load, user, "chat.send"), _first(load, user, "order.submit")
    others: Sequence[tuple[Asked, str, dict[str, Any], str]] = [
        (said, "chat.send", {"room": said.about, "text": f"{user} says otherwise"}, said.about),
        (ordered, "order.submit", {"order_id": "other", "amount": "1.00"}, "other"),
        (ordered, "order.cancel", {"order_id": ordered.about}, ordered.about),
    ]
    async with system.connect(user) as client:
        for number, (before, action, data, about) in enumerate(others):
            key = about if action == "chat.send" else None
            answer = await client.request(action, data, msg_id=before.msg_id, key=key)
            code = answer["data"].get("code")
            assert (answer["action"], code) == ("error", "conflict"), (user, action, answer)
            if action != "order.cancel":  # which may have been asked for, and done, under an id of its own
                load.journal.asked.append(
                    Asked(
                        user,
                        1_000_000 + number,
                        action,
                        user,
                        about,
                        data.get("text", ""),
                        Outcome.REFUSED,
                        code=code,
                    )
                )


async def _publish_otherwise(url: str, load: Load) -> list[str]:
    """Backends that are known publish something else under an id that was used; returns these ids."""
    published: list[str] = []
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        events = await channel.get_exchange("towpath.events", ensure=False)
        for name, app_id in _BACKENDS.items():
            if app_id is None:
                continue  # the sender is the subject of the event: another order is another event
            before = _first(load, name, "order.created")
            data = {"order_id": f"other-of-{name}", "user_id": before.user}
            envelope = {
                "msg_id": before.msg_id, "timestamp": 1, "action": "order.created", "data": data, "version": "1.0",
            }  # fmt: skip
            message = aio_pika.Message(json.dumps(envelope).encode(), delivery_mode=2, app_id=app_id)
            await events.publish(message, "order.created")
            published.append(before.msg_id)
    return sorted(published)
