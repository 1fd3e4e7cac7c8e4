"""Towpath in one process: a client's request, an event, a push, and what goes wrong between them."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from towpath.inventory.app import INVENTORY
from towpath.orders.app import ORDERS
from towpath.orders.tables import ORDERS as ORDER_ROWS
from towpath.servicekit import BadService, BrokerUnavailable, Handler, Unroutable
from towpath.testkit import Misfit, Stack, a_push, a_token, an_event

from .counting import COUNTS, SERVICE, Add, Number, add, paid_never, with_command, with_event

PAID = an_event("shop.paid", msg_id="e-1", word="oak", amount=2)


async def numbers(stack: Stack) -> dict[str, int]:
    return {row.word: row.number for row in await stack.rows(COUNTS)}


async def test_a_request_is_answered_and_its_push_reaches_each_connection_of_the_user() -> None:
    async with Stack.running(SERVICE) as stack, stack.connect("ana") as ana, stack.connect("ana") as phone:
        answer = await ana.request("count.add", {"word": "oak", "amount": 2})
        assert (answer["action"], answer["data"]) == ("count.add.ok", {"word": "oak", "number": 2})
        assert (await phone.next("count.changed"))["data"] == {"word": "oak", "number": 2}
        assert [event.action for event in stack.events()] == ["count.added"]


async def test_a_stack_needs_less_than_a_second_of_processor_time_to_start() -> None:
    async with Stack.running(SERVICE):
        pass  # modules are imported once
    started = time.process_time()
    async with Stack.running(SERVICE):
        assert time.process_time() - started < 1


async def test_a_stack_that_has_ended_leaves_no_task_of_a_service() -> None:
    for _ in range(3):
        async with Stack.running(SERVICE):
            pass  # it ends while its database is probed for the first time
        assert [task for task in asyncio.all_tasks() if task.get_name().startswith("count:")] == []


async def test_events_and_pushes_of_a_backend_arrive() -> None:
    async with Stack.running(SERVICE) as stack, stack.connect("ana") as ana:
        await stack.publish(PAID, a_push("ana", "shop.sale", percent=20))
        await stack.settled()
        assert await numbers(stack) == {"oak": 2}
        assert [push["data"] for push in ana.pushes("shop.sale")] == [{"percent": 20}]


async def test_an_event_that_no_service_handles_is_refused() -> None:
    async with Stack.running(SERVICE) as stack:
        with pytest.raises(
            Unroutable, match=r"no service of this stack handles 'shop\.sold': name it in events="
        ):
            await stack.publish(an_event("shop.sold"))


async def test_settled_waits_for_what_was_sent_and_for_what_follows() -> None:
    async with Stack.running(SERVICE) as stack, stack.connect("ana") as ana, stack.connect("ana") as phone:
        for _ in range(20):
            await ana.send("count.add", {"word": "oak", "amount": 1})
        await stack.settled()
        assert await numbers(stack) == {"oak": 20}
        assert len(phone.pushes("count.changed")) == 20


async def test_settled_names_what_is_still_in_work() -> None:
    async with Stack.running(SERVICE) as stack:
        with stack.faults.delayed("shop.paid", 3600):
            await stack.publish(PAID)
        with pytest.raises(AssertionError, match=r"After 0\.1 s this is still in work: delayed \(1\)\."):
            await stack.settled(timeout=0.1)


async def test_clients_of_two_gateways_and_two_replicas_of_a_service_share_everything() -> None:
    async with (
        Stack.running(SERVICE, gateways=2, replicas=2) as stack,
        stack.connect("ana") as ana,
        stack.connect("ana", gateway=1) as phone,
    ):
        for key in map(str, range(20)):
            await ana.send("count.add", {"word": key, "amount": 1}, key=key)
        await stack.settled()
        assert len(await numbers(stack)) == len(phone.pushes("count.changed")) == 20


async def test_services_of_one_stack_hear_each_other() -> None:
    async with Stack.running(ORDERS, INVENTORY) as stack:
        async with stack.connect(
            "keeper", token=a_token("keeper", scope="inventory inventory:write")
        ) as keeper:
            await keeper.request("inventory.set", {"sku": "anvil", "on_hand": 3})
        async with stack.connect("ana") as ana:
            items = [{"sku": "anvil", "quantity": 2, "unit_price": "9.00"}]
            answer = await ana.request("order.submit", {"items": items})
            assert answer["action"] == "order.submit.ok", answer
            await stack.settled()
            assert [event.action for event in stack.events("order.*")] == ["order.created", "order.confirmed"]
            assert [row.status for row in await stack.rows(ORDER_ROWS)] == ["confirmed"]
            assert ana.pushes("order.updated")[-1]["data"]["status"] == "confirmed"


async def test_a_crash_at_any_moment_loses_and_doubles_nothing() -> None:
    async with Stack.running(SERVICE) as stack, stack.connect("ana") as ana:
        for crash in (1, 2, 3):
            for _ in range(10):
                await ana.send("count.add", {"word": "oak", "amount": 1})
            await ana.request("count.add", {"word": f"elm-{crash}", "amount": 1})
            await ana.send("count.add", {"word": "oak", "amount": 1})
            await stack.crash("count")
        await stack.settled()
        assert (await numbers(stack))["oak"] == 33


async def test_a_broker_that_was_away_loses_no_event() -> None:
    async with Stack.running(SERVICE) as stack, stack.connect("ana") as ana:
        await stack.publish(PAID)
        with stack.faults.broker_away():
            with pytest.raises(BrokerUnavailable):
                await stack.publish(an_event("shop.paid", word="elm", amount=1))
            assert (await ana.request("count.add", {"word": "elm", "amount": 1}))["data"][
                "code"
            ] == "unavailable"
        await stack.settled()
        assert await numbers(stack) == {"oak": 2}


async def test_an_event_that_comes_twice_counts_once() -> None:
    async with Stack.running(SERVICE) as stack:
        with stack.faults.duplicated("shop.*"):
            await stack.publish(PAID)
        await stack.settled()
        assert await numbers(stack) == {"oak": 2}
        assert len(stack.events("shop.paid")) == 1  # what the backend has published


async def test_delayed_events_arrive_later() -> None:
    async with Stack.running(SERVICE) as stack:
        started = time.monotonic()
        with stack.faults.delayed("shop.paid", 0.2):
            await stack.publish(PAID)
        await stack.settled()
        assert time.monotonic() - started >= 0.2
        assert await numbers(stack) == {"oak": 2}


async def test_reordered_events_arrive_last_one_first() -> None:
    async with Stack.running(SERVICE) as stack:
        with stack.faults.reordered("shop.paid"):
            for amount in (1, 2, 3):
                await stack.publish(an_event("shop.paid", word="oak", amount=amount))
            await stack.settled()
            assert await numbers(stack) == {}
        await stack.settled()
        assert [event.data["number"] for event in stack.events("count.added")] == [3, 5, 6]


async def test_held_answers_arrive_at_the_end() -> None:
    async with Stack.running(SERVICE) as stack, stack.connect("ana") as ana:
        with stack.faults.held("count.add.ok") as held:
            msg_id = await ana.send("count.add", {"word": "oak", "amount": 1})
            await stack.settled()
            assert len(held) == 1
            assert [frame for frame in ana.frames if frame.get("correlation_id") == msg_id] == []
        assert (await ana.answer(msg_id))["data"]["number"] == 1


async def test_a_publisher_waits_while_confirms_are_held_and_is_refused_while_the_broker_is_blocked() -> None:
    async with Stack.running(SERVICE) as stack, stack.connect("ana") as ana:
        with stack.faults.confirms_held():
            msg_id = await ana.send("count.add", {"word": "oak", "amount": 1}, ack=True)
            await ana.caught_up()
            assert [frame for frame in ana.frames if frame["action"] == "accepted"] == []
        await ana.accepted(msg_id)
        await ana.answer(msg_id)
        with stack.faults.broker_blocked():
            assert (await ana.request("count.add", {"word": "oak", "amount": 1}))["data"]["code"] == "busy"


async def test_messages_that_fail_are_listed() -> None:
    service = with_event(Handler(Add, paid_never))
    async with Stack.running(service) as stack:
        await stack.publish(PAID, an_event("shop.paid", word="", amount=1))
        await stack.settled()
        assert stack.retried() == ["RuntimeError: the price list is empty"]
        assert len(stack.parked()) == 1


async def test_a_frame_that_does_not_fit_its_declaration_fails_the_test() -> None:
    service = with_command(Handler(Add, add, answer=Add))
    with pytest.raises(AssertionError, match=r"count\.add\.ok does not fit Add: amount: Field required"):
        async with Stack.running(service) as stack, stack.connect("ana") as ana:
            await ana.request("count.add", {"word": "oak", "amount": 1})


async def test_an_event_that_is_not_declared_fails_the_test() -> None:
    service = replace(SERVICE, events_out={"count.other": Number})
    with pytest.raises(Misfit, match=r"count\.added is published and not declared"):
        async with Stack.running(service) as stack, stack.connect("ana") as ana:
            await ana.request("count.add", {"word": "oak", "amount": 1})


async def test_a_service_that_cannot_start_is_named() -> None:
    async def not_plain(*_: Any) -> Any: ...

    handler: Any = not_plain
    with pytest.raises(BadService, match=r"count\.add"):
        async with Stack.running(with_command(Handler(Add, handler))):
            pass


async def test_databases_of_a_folder_are_there_again(tmp_path: Path) -> None:
    for expected in (2, 4):
        async with Stack.running(SERVICE, folder=tmp_path) as stack:
            await stack.publish(an_event("shop.paid", word="oak", amount=2))
            await stack.settled()
            assert await numbers(stack) == {"oak": expected}


async def test_wrong_names_are_refused_with_the_right_ones() -> None:
    async with Stack.running(SERVICE) as stack:
        with pytest.raises(ValueError, match="there is no service 'counts' in this stack, which has count"):
            await stack.crash("counts")
        with pytest.raises(ValueError, match="orders is not a table of count"):
            await stack.rows(ORDER_ROWS)


async def test_settings_of_gateways_and_services_are_given_by_the_test() -> None:
    settings: dict[str, Any] = {"gateway": {"max_frame_bytes": 2048}, "queue_max_length": 5}
    async with Stack.running(SERVICE, **settings) as stack, stack.connect("ana") as ana:
        welcome = await ana.next("session.welcome")
        assert welcome["data"]["max_frame_bytes"] == 2048
