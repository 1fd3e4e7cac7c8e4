"""The opening handshake: which clients are welcomed, and how the others are refused."""

from typing import Any, Literal

import aiohttp
import pytest
from websockets.exceptions import InvalidStatus

from towpath.servicekit.broker.memory import MemoryHub
from towpath.testkit.client import WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.gateway import GatewayUnderTest, RunGateway
from towpath.testkit.tokens import a_token

Via = Literal["header", "subprotocol"]


async def refused(url: str, **options: Any) -> tuple[int, str | None]:
    """The HTTP status of a refused handshake, and its Retry-After."""
    with pytest.raises(InvalidStatus) as refusal:
        async with WireClient.connect(url, **options):
            pass
    response = refusal.value.response
    return response.status_code, response.headers.get("Retry-After")


@pytest.mark.parametrize("via", ["header", "subprotocol"])
async def test_the_first_frame_is_the_welcome(gateway: GatewayUnderTest, via: Via) -> None:
    async with gateway.connect("ana", via=via) as ana:
        welcome = await ana.next("session.welcome")
        assert ana.frames[0] is welcome
        assert ana.subprotocol == "towpath.v1"
    data = welcome["data"]
    assert data["user_id"] == "ana"
    assert data["gateway_id"] == gateway.settings.gateway_id
    assert data["max_frame_bytes"] == 65536
    assert data["version"] == "1.0"
    assert isinstance(data["connection_id"], str)
    assert data["heartbeat_ms"] == 25_000
    assert abs(data["server_time"] - welcome["timestamp"]) < 1000


@pytest.mark.parametrize(
    "token",
    [None, "garbage", a_token("ana", expires_in=-5), a_token("ana", secret="x" * 32)],
    ids=["none", "garbage", "expired", "foreign"],
)
@pytest.mark.parametrize("via", ["header", "subprotocol"])
async def test_a_missing_or_bad_token_is_401(gateway: GatewayUnderTest, token: str | None, via: Via) -> None:
    assert (await refused(gateway.url, token=token, via=via))[0] == 401


@pytest.mark.parametrize("user", ["x" * 129, "x" * 223, "ä" * 34, "@" * 67])
async def test_a_user_id_longer_than_the_contract_allows_is_401(gateway: GatewayUnderTest, user: str) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        async with gateway.connect(user):
            pass
    assert refusal.value.response.status_code == 401
    assert b"a user id has at most" in refusal.value.response.body


@pytest.mark.parametrize("user", ["x" * 128, "ä" * 33, "@" * 66])
async def test_the_longest_user_id_is_welcome(gateway: GatewayUnderTest, user: str) -> None:
    async with gateway.connect(user) as client:
        assert (await client.next("session.welcome"))["data"]["user_id"] == user


@pytest.mark.parametrize("expiry", [10**400, float("nan"), "4102444800", -1])
async def test_an_expiry_that_is_not_a_time_is_401_and_never_an_internal_error(
    gateway: GatewayUnderTest, expiry: Any
) -> None:
    bad = a_token("ana", exp=expiry)
    assert (await refused(gateway.url, token=bad))[0] == 401
    async with gateway.connect("ana") as ana:
        await ana.next("session.welcome")
        answer = await ana.request("session.refresh", {"token": bad})
        assert (answer["action"], answer["data"]["code"]) == ("error", "unauthorized")
        assert (await ana.request("ping"))["action"] == "pong"


async def test_a_token_in_the_subprotocol_is_accepted_beside_a_proxys_basic_authorization(
    gateway: GatewayUnderTest,
) -> None:
    async with aiohttp.ClientSession() as http:
        connecting = http.ws_connect(
            gateway.url.replace("ws:", "http:"),
            protocols=["towpath.v1", f"towpath.token.{a_token('ana')}"],
            headers={"Authorization": "Basic dXNlcjpwYXNz"},
        )
        async with connecting as socket:
            assert (await socket.receive_json())["action"] == "session.welcome"


async def test_a_token_in_the_url_is_ignored(gateway: GatewayUnderTest) -> None:
    assert (await refused(f"{gateway.url}?token={a_token('ana')}"))[0] == 401


async def test_a_page_of_another_origin_is_403(run_gateway: RunGateway) -> None:
    async with run_gateway(allowed_origins="https://shop.example") as gateway:
        assert (await refused(gateway.url, token=a_token("ana"), origin="https://evil.example"))[0] == 403
        async with gateway.connect("ana", origin="https://shop.example") as ana:
            await ana.next("session.welcome")


async def test_another_path_is_404(gateway: GatewayUnderTest) -> None:
    assert (await refused(gateway.url.replace("/ws", "/else"), token=a_token("ana")))[0] == 404


async def test_without_a_broker_a_handshake_is_503_with_advice(run_gateway: RunGateway) -> None:
    hub = MemoryHub()
    hub.stop()
    async with run_gateway(hub, wait=False) as gateway:

        async def is_refused() -> bool:
            try:
                return await refused(gateway.url, token=a_token("ana")) == (503, "2")
            except OSError:
                return False  # it does not listen yet

        await eventually(is_refused)
        assert not await gateway.is_ready()
        hub.start()
        await eventually(gateway.is_ready)
        async with gateway.connect("ana") as ana:
            await ana.next("session.welcome")


async def test_a_full_replica_is_503_with_advice(run_gateway: RunGateway) -> None:
    async with run_gateway(max_connections=1) as gateway, gateway.connect("ana") as ana:
        await ana.next("session.welcome")
        assert await refused(gateway.url, token=a_token("ben")) == (503, "2")


async def test_the_subprotocol_must_be_ours_when_any_is_offered(gateway: GatewayUnderTest) -> None:
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await http.ws_connect(
                gateway.url.replace("ws:", "http:"),
                protocols=["graphql-ws"],
                headers={"Authorization": f"Bearer {a_token('ana')}"},
            )
    assert refusal.value.status == 400


async def test_the_oldest_connection_of_a_user_with_too_many_is_replaced(
    run_gateway: RunGateway,
) -> None:
    async with (
        run_gateway(max_connections_per_user=2) as gateway,
        gateway.connect("ana") as first,
        gateway.connect("ana") as second,
        gateway.connect("ben") as other,
    ):
        await second.next("session.welcome")
        async with gateway.connect("ana") as third:
            await third.next("session.welcome")
            closing = await first.next("session.closing")
            assert closing["data"]["code"] == 4503
            assert "retry_after_ms" not in closing["data"]
            assert await first.closed() == 4503
            for alive in (second, third, other):
                assert (await alive.request("ping"))["action"] == "pong"
