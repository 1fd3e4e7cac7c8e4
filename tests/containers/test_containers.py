"""docker-compose.yml as a whole, on a real engine: it comes up, serves people, heals, scales and goes."""

import asyncio
import itertools
from typing import Final

import aiohttp
import pytest

from towpath.testkit.client import WireClient
from towpath.testkit.eventually import eventually

from .compose import INGRESS, PAGE, Compose
from .conversation import HEAL_SECONDS, Conversation, gateway_url, token

_PARTS: Final = (
    *("proxy", "gateway-1", "gateway-2", "chat", "orders", "inventory", "notifications"),
    *("web", "ingress", "rabbitmq", "postgres"),
)
_NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def key(compose: Compose) -> str:
    """A key of the ingress for order events, which the ingress has read."""
    made = compose.execute("ingress", "towpath-ingress", "key", "shop", "--events", "order.*").split()[-1]

    async def is_known() -> bool:
        url = f"http://{compose.address(INGRESS)}/v1/events"
        headers = {"Authorization": f"Bearer {made}"}
        async with aiohttp.ClientSession(headers=headers) as backend, backend.post(url, json={}) as answer:
            return answer.status != 401

    asyncio.run(eventually(is_known))
    return made


def test_every_service_of_the_file_is_up_and_healthy(compose: Compose) -> None:
    assert sorted(compose.services()) == sorted(_PARTS)
    states = {one["Name"]: one["State"]["Health"]["Status"] for one in compose.containers()}
    assert set(states.values()) == {"healthy"}, states


def test_our_containers_run_without_root_without_capabilities_and_read_only(
    compose: Compose, image: str
) -> None:
    ours = [one for one in compose.containers() if one["Config"]["Image"] == image]
    assert len(ours) == 8
    for one in ours:
        name = one["Name"]
        assert one["HostConfig"]["ReadonlyRootfs"], name
        assert one["HostConfig"]["CapDrop"] == ["ALL"], name
        assert one["Config"]["User"] == "10001:10001", name
    assert compose.execute("chat", "id", "-u").strip() == "10001"
    written = "touch /opt/towpath/x 2>/dev/null && echo written || echo refused"
    assert compose.execute("chat", "sh", "-c", written).strip() == "refused"


async def test_people_on_both_gateways_talk_through_the_proxy(compose: Compose) -> None:
    room = "lock"
    url = gateway_url(compose)
    # The proxy takes the gateway with the fewest connections: of two clients, each has another one.
    async with (
        WireClient.connect(url, token=token(compose, "ana")) as ana,
        WireClient.connect(url, token=token(compose, "ben")) as ben,
    ):
        welcomes = [await client.next("session.welcome") for client in (ana, ben)]
        gateways = {welcome["data"]["gateway_id"] for welcome in welcomes}
        assert len(gateways) == 2, welcomes
        for client in (ana, ben):
            await client.request("chat.join", {"room": room})
        await ana.request("chat.send", {"room": room, "text": "ahoy"})
        heard = await ben.next("chat.message")
        assert heard["data"]["text"] == "ahoy"


async def test_the_page_is_served_and_may_connect(compose: Compose) -> None:
    async with aiohttp.ClientSession() as http:
        async with http.get(f"http://{compose.address(PAGE)}/") as page:
            assert page.status == 200
            assert "<title>Towpath" in await page.text()
        async with http.get(f"http://{compose.address(PAGE)}/config.json") as config:
            assert (await config.json())["gateways"] == [gateway_url(compose)]
    origin = f"http://{compose.address(PAGE)}"
    async with WireClient.connect(
        gateway_url(compose), token=token(compose, "ana"), via="subprotocol", origin=origin
    ) as ana:
        await ana.next("session.welcome")


async def test_an_event_by_http_reaches_its_person(compose: Compose, key: str) -> None:
    async with WireClient.connect(gateway_url(compose), token=token(compose, "cleo")) as cleo:
        submitted = await cleo.request("order.submit", {"amount": "9.00"})
        await publish_paid(compose, key, submitted["data"]["order_id"], "cleo")
        paid = await cleo.find(lambda frame: frame["data"].get("status") == "paid")
        assert paid["action"] == "order.updated"


async def publish_paid(compose: Compose, key: str, order_id: str, user: str) -> None:
    event = {"action": "order.paid", "data": {"order_id": order_id, "user_id": user}}
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as backend,
        backend.post(f"http://{compose.address(INGRESS)}/v1/events", json=event) as accepted,
    ):
        assert accepted.status == 202, await accepted.text()


@pytest.mark.parametrize("part", _PARTS)
async def test_a_restart_of_any_container_heals_and_loses_no_message(
    part: str, compose: Compose, key: str
) -> None:
    async with Conversation.open(compose) as conversation:
        await conversation.goes_on_during(asyncio.to_thread(compose.restart, part))
        await conversation.is_complete()

        ana, room = conversation.ana, conversation.room
        order = await ana.request("order.submit", {"amount": "9.00"}, msg_id=f"{room}-order")
        order_id = order["data"]["order_id"]

        async def accepts() -> bool:
            try:
                await publish_paid(compose, key, order_id, "ana")
                async with (
                    aiohttp.ClientSession() as http,
                    http.get(f"http://{compose.address(PAGE)}/") as page,
                ):
                    return page.status == 200
            except aiohttp.ClientError:
                return False

        await eventually(accepts, timeout=HEAL_SECONDS, every=0.5)

        async def is_paid() -> bool:
            shown = await ana.request("order.get", {"order_id": order_id}, msg_id=f"{room}-{next(_NUMBERS)}")
            return bool(shown["data"]["status"] == "paid")

        await eventually(is_paid, timeout=HEAL_SECONDS, every=0.5)

    def is_healthy() -> bool:
        return all(one["State"]["Health"]["Status"] == "healthy" for one in compose.containers())

    await asyncio.to_thread(asyncio.run, eventually(is_healthy, timeout=HEAL_SECONDS, every=1))


async def test_services_are_scaled_out_and_in_while_people_talk(compose: Compose) -> None:
    async with Conversation.open(compose) as conversation:
        for replicas in (3, 1):
            await conversation.goes_on_during(
                asyncio.to_thread(compose.scale, chat=replicas, orders=replicas)
            )
            assert len(compose.containers("chat")) == len(compose.containers("orders")) == replicas
        await conversation.is_complete()


def test_taken_down_nothing_is_left(image: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    with Compose(image, tmp_path_factory.mktemp("compose")) as another:
        another.up("web")
        assert another.leftovers().keys() == {"containers", "volumes", "networks"}
    assert another.leftovers() == {}
