"""A domain has one owner, and a service with an action that no request reaches does not start."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from pydantic import BaseModel
from structlog.testing import capture_logs

from towpath.protocol.envelope import make
from towpath.protocol.routes import EVENTS, SERVICE_ALIVE
from towpath.protocol.services import ServiceAlive
from towpath.servicekit.broker.interface import Broker, Exchange, Message, Topology
from towpath.servicekit.broker.memory import MemoryHub
from towpath.servicekit.handling.checks import BadService, check_domain
from towpath.servicekit.handling.outcome import Outcome
from towpath.servicekit.handling.requests import Handler
from towpath.servicekit.messaging.announcements import Announcer, Owners
from towpath.servicekit.runtime.loops import keep_running
from towpath.servicekit.runtime.settings import ServiceSettings
from towpath.servicekit.service import Service
from towpath.servicekit.serving import serve_domain
from towpath.testkit.eventually import eventually

INTERVAL: Final = 5.0


# Actions


@pytest.mark.parametrize(
    ("domain", "action", "said"),
    [
        (
            "shelf",
            "chat.send",
            "would never be asked for its action 'chat.send': name it shelf.send, or move it",
        ),
        ("shelf", "shelves.put", "would never be asked for its action 'shelves.put'"),
        ("shelf", "shelf", "has an action 'shelf': not a valid name, use shelf.verb"),
        ("shelf", "shelf.Put", "has an action 'shelf.Put': not a valid name"),
        ("shelf", "ping", "would never be asked for its action 'ping'"),
        ("shelf", "", "has an action '': not a valid name"),
        ("session", "session.refresh", "cannot own the domain 'session'"),
        ("service", "service.alive", "cannot own the domain 'service'"),
        ("Shelf", "Shelf.put", "cannot own the domain 'Shelf'"),
        ("shelf.top", "shelf.top.put", "cannot own the domain 'shelf.top'"),
        ("", ".put", "cannot own the domain ''"),
    ],
)
def test_an_unroutable_action_is_refused(domain: str, action: str, said: str) -> None:
    with pytest.raises(BadService) as bad:
        check_domain("shelves", domain, [f"{domain}.list", action])
    assert said in str(bad.value)
    assert "\n" not in str(bad.value)


def test_actions_of_the_domain_are_accepted() -> None:
    check_domain("shelves", "shelf", ["shelf.put", "shelf.put.twice", "shelf.a1_b"])


async def test_a_service_with_an_action_of_another_domain_does_not_start(hub: MemoryHub) -> None:
    class Nothing(BaseModel):
        pass

    def do_nothing(_: Nothing, __: object, ___: None) -> Outcome:
        return Outcome(answer={})

    service: Service[Any] = Service(
        name="shelves", domain="shelf", commands={"chat.send": Handler(Nothing, do_nothing)}
    )
    with pytest.raises(BadService, match=r"'chat\.send'"):
        await serve_domain(
            service,
            ServiceSettings(admin_port=0),
            asyncio.Event(),
            lambda _, name: hub.connect(name=name),
        )


# Owners


def alive(service: str, domain: str) -> ServiceAlive:
    return ServiceAlive(service=service, domain=domain, costs={})


@pytest.mark.parametrize(
    ("service", "domain", "event"),
    [
        ("shelves", "shelf", None),  # our own replicas
        ("chat", "chat", None),
        ("cupboards", "shelf", "domain_has_two_owners"),
        ("shelves", "cupboard", "service_name_taken_twice"),
    ],
)
def test_a_second_owner_is_logged_and_fails_readiness(service: str, domain: str, event: str | None) -> None:
    owners = Owners("shelves", "shelf", interval=INTERVAL, clock=lambda: 100.0)
    with capture_logs() as lines:
        owners.announced(alive(service, domain))
    assert [line["event"] for line in lines] == ([event] if event else [])
    assert owners.is_sole() is (event is None)


def test_a_second_owner_is_logged_once_a_minute_and_forgotten_when_it_is_silent() -> None:
    now = 0.0
    owners = Owners("shelves", "shelf", interval=INTERVAL, clock=lambda: now)
    with capture_logs() as lines:
        for _ in range(25):
            owners.announced(alive("cupboards", "shelf"))
            now += INTERVAL
            assert not owners.is_sole()
    assert len(lines) == 3  # at 0, 60 and 120 s
    now += 2 * INTERVAL + 0.1
    assert owners.is_sole()


@pytest.fixture
async def listening(broker: Broker) -> AsyncIterator[Owners]:
    await broker.declare(Topology([Exchange(EVENTS)]))
    owners = Owners("shelves", "shelf", interval=INTERVAL)
    task = asyncio.create_task(owners.listen(broker))
    await asyncio.sleep(0)
    yield owners
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_two_services_with_the_same_domain_detect_each_other(broker: Broker, listening: Owners) -> None:
    announcer = Announcer(broker, "cupboards", "shelf", {}, interval=0.05)
    announcing = asyncio.create_task(keep_running("alive", announcer.step, pause=0))
    try:
        await eventually(lambda: not listening.is_sole())
    finally:
        announcing.cancel()


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[1]", b"{}", b"\xff", b"[" * 5000])
async def test_an_unreadable_announcement_does_not_end_the_listener(
    broker: Broker, listening: Owners, body: bytes
) -> None:
    await broker.publish(EVENTS, SERVICE_ALIVE, Message(body=body, persistent=False))
    odd = make(SERVICE_ALIVE, {"service": 7}).to_json()
    good = make(SERVICE_ALIVE, alive("cupboards", "shelf").model_dump()).to_json()
    for each in (odd, good):
        await broker.publish(EVENTS, SERVICE_ALIVE, Message(body=each, persistent=False))
    await eventually(lambda: not listening.is_sole())


async def test_unreadable_announcements_do_not_fill_the_log(broker: Broker, listening: Owners) -> None:
    good = make(SERVICE_ALIVE, alive("cupboards", "shelf").model_dump()).to_json()
    with capture_logs() as lines:
        for body in [b"nonsense"] * 50 + [good]:
            await broker.publish(EVENTS, SERVICE_ALIVE, Message(body=body, persistent=False))
        await eventually(lambda: not listening.is_sole())
    assert [line["event"] for line in lines].count("event_unreadable") == 1
