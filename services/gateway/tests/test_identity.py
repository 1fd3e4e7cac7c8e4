"""Identity at a running gateway: rotated keys, absent issuers, refreshed and expired tokens."""

import asyncio
import json
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from towpath.gateway.admission.credentials import Admission, Identity, TokenRefused
from towpath.gateway.forwarding.costs import Costs
from towpath.gateway.forwarding.inbound import Inbound
from towpath.gateway.forwarding.refresh import Refresh
from towpath.gateway.forwarding.request_spans import RequestSpans
from towpath.gateway.sessions.limits import Limits
from towpath.gateway.sessions.session import Session
from towpath.gateway.settings import GatewaySettings
from towpath.protocol.envelope import head, make
from towpath.protocol.routes import COMMANDS
from towpath.servicekit.broker.memory import MemoryHub
from towpath.servicekit.messaging.lanes import LaneKind, Lanes
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.testkit.client import WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.gateway import GatewayUnderTest, RunGateway
from towpath.testkit.gateway_stubs import SocketStub
from towpath.testkit.issuer import SigningKey, TokenIssuer, an_issuer
from towpath.testkit.tokens import AUTH_SETTINGS


def keys_of(issuer: TokenIssuer, **settings: Any) -> dict[str, Any]:
    """Settings of a gateway that takes tokens of ``issuer``."""
    return {"auth_secret": None, "development": False, "auth_jwks_url": issuer.url, **settings}


async def status_of(gateway: GatewayUnderTest, token: str) -> int:
    """The status of a handshake; 101 if it is accepted."""
    try:
        async with gateway.connect(token=token) as client:
            await client.next("session.welcome")
            return 101
    except InvalidStatus as refusal:
        return refusal.response.status_code


async def test_a_token_signed_with_a_rotated_key_is_accepted_at_once(run_gateway: RunGateway) -> None:
    async with an_issuer() as issuer, run_gateway(**keys_of(issuer)) as gateway:
        assert await status_of(gateway, issuer.token("ana")) == 101
        former = issuer.rotate("RS256")
        assert await status_of(gateway, issuer.token("ana")) == 101
        assert await status_of(gateway, former.token("ana")) == 401
        assert issuer.fetches == 2


async def test_a_thousand_tokens_with_unknown_keys_cause_one_fetch(run_gateway: RunGateway) -> None:
    async with an_issuer() as issuer, run_gateway(**keys_of(issuer, refusal_delay=0)) as gateway:
        forged = SigningKey("forged")

        async def try_key(number: int) -> int:
            forged.kid = f"forged-{number}"
            return await status_of(gateway, forged.token("ana"))

        for batch in range(20):
            results = await asyncio.gather(*(try_key(50 * batch + number) for number in range(50)))
            assert set(results) == {401}
        assert issuer.fetches == 2
        assert await status_of(gateway, issuer.token("ana")) == 101
        assert "tokens_unknown_key_total 1050.0" in (await gateway.admin("/metrics"))[1]


async def test_an_unknown_key_waits_for_a_slow_issuer_and_then_is_refused(run_gateway: RunGateway) -> None:
    async with an_issuer() as issuer, run_gateway(**keys_of(issuer, jwks_timeout=0.5)) as gateway:
        issuer.delay = 30
        began = time.monotonic()
        assert await status_of(gateway, SigningKey("forged").token("ana")) == 401
        assert time.monotonic() - began < 5
        assert await status_of(gateway, issuer.token("ana")) == 101


async def test_without_keys_a_gateway_is_not_ready_until_its_issuer_answers(run_gateway: RunGateway) -> None:
    async with an_issuer() as issuer:
        issuer.status = 503
        async with run_gateway(**keys_of(issuer), wait=False) as gateway:
            await eventually(lambda: issuer.fetches)
            await eventually(lambda: _fails_of_keys_alone(gateway))
            assert await status_of(gateway, issuer.token("ana")) == 503
            issuer.status = 200
            await eventually(gateway.is_ready)
            assert await status_of(gateway, issuer.token("ana")) == 101


async def _fails_of_keys_alone(gateway: GatewayUnderTest) -> bool:
    try:
        answer: dict[str, Any] = json.loads((await gateway.admin("/health/ready"))[1])
    except OSError:
        return False
    return answer.get("failing") == ["keys"]


async def test_a_token_of_an_absent_issuer_is_503_while_another_issuer_serves(
    run_gateway: RunGateway,
) -> None:
    async with an_issuer() as one, an_issuer() as two:
        two.status = 500
        listed = [
            {"issuer": "one", "jwks_url": one.url, "user_prefix": "1:"},
            {"issuer": "two", "jwks_url": two.url, "user_prefix": "2:"},
        ]
        given = keys_of(one, auth_jwks_url=None, auth_issuers=json.dumps(listed))
        async with run_gateway(**given) as gateway:
            assert await status_of(gateway, one.token("ana", iss="one")) == 101
            assert await status_of(gateway, two.token("ana", iss="two")) == 503
            assert await status_of(gateway, two.token("ana", iss="one")) == 401


# Refresh


async def test_a_refresh_with_a_rotated_key_is_answered_after_the_fetch(run_gateway: RunGateway) -> None:
    async with (
        an_issuer() as issuer,
        run_gateway(**keys_of(issuer)) as gateway,
        gateway.connect(token=issuer.token("ana", expires_in=60)) as ana,
    ):
        issuer.rotate()
        answer = await ana.request("session.refresh", {"token": issuer.token("ana", expires_in=600)})
        assert answer["action"] == "session.refresh.ok"
        assert answer["data"]["expires_at"] > 1000 * (time.time() + 500)


async def test_a_refresh_with_an_unknown_key_is_refused_and_the_connection_stays(
    run_gateway: RunGateway,
) -> None:
    async with (
        an_issuer() as issuer,
        run_gateway(**keys_of(issuer)) as gateway,
        gateway.connect(token=issuer.token("ana")) as ana,
    ):
        for _ in range(2):  # after a fetch, and within the cooldown
            answer = await ana.request("session.refresh", {"token": SigningKey("forged").token("ana")})
            assert (answer["action"], answer["data"]["code"]) == ("error", "unauthorized")
        other = await ana.request("session.refresh", {"token": issuer.token("ben")})
        assert other["data"]["code"] == "forbidden"
        assert (await ana.request("ping"))["action"] == "pong"
        assert issuer.fetches == 2


async def test_one_refresh_of_a_connection_waits_for_keys_and_a_second_one_is_busy(
    run_gateway: RunGateway,
) -> None:
    async with (
        an_issuer() as issuer,
        run_gateway(**keys_of(issuer)) as gateway,
        gateway.connect(token=issuer.token("ana")) as ana,
    ):
        issuer.delay = 0.5
        unknown = {"token": SigningKey("forged").token("ana")}
        first = await ana.send("session.refresh", unknown)
        second = await ana.request("session.refresh", unknown)
        assert second["data"]["code"] == "busy"
        assert (await ana.answer(first))["data"]["code"] == "unauthorized"


async def test_a_connection_that_ended_while_its_refresh_waited_is_left_alone() -> None:
    async with an_issuer() as issuer:
        settings = GatewaySettings(auth_jwks_url=issuer.url)
        async with (
            Telemetry.open("gateway", settings) as telemetry,
            Admission.open(settings, telemetry) as admission,
        ):
            await eventually(admission.has_keys)
            refused: list[str] = []
            refresh = Refresh(admission, lambda _, msg_id, error: refused.append(msg_id))
            socket, limits = SocketStub(), Limits(settings, telemetry)
            session = Session(socket, admission.identify(issuer.token("ana")), settings, limits)
            identity = session.identity
            issuer.rotate()
            text = make("session.refresh", {"token": issuer.token("ana", expires_in=60)}).to_json()
            refresh.handle(session, head(text), text)
            session.ended()
            await eventually(lambda: _is_accepted(admission, issuer))
            assert session.identity is identity
            assert (socket.texts, refused) == ([], [])


def _is_accepted(admission: Admission, issuer: TokenIssuer) -> bool:
    try:
        return bool(admission.identify(issuer.token("ana")))
    except TokenRefused:
        return False


async def test_a_refresh_by_another_issuer_is_forbidden_even_for_the_same_user(
    run_gateway: RunGateway,
) -> None:
    async with an_issuer() as one, an_issuer() as two, AsyncExitStack() as stack:
        listed = [
            {"issuer": "one", "jwks_url": one.url, "same_users": True},
            {"issuer": "two", "jwks_url": two.url, "same_users": True},
        ]
        given = keys_of(one, auth_jwks_url=None, auth_issuers=json.dumps(listed))
        gateway = await stack.enter_async_context(run_gateway(**given))
        await eventually(lambda: two.fetches)
        ana: WireClient = await stack.enter_async_context(gateway.connect(token=one.token("ana", iss="one")))
        answer = await ana.request("session.refresh", {"token": two.token("ana", iss="two")})
        assert answer["data"]["code"] == "forbidden"
        answer = await ana.request("session.refresh", {"token": one.token("ana", iss="one")})
        assert answer["action"] == "session.refresh.ok"


# Expiry


@pytest.mark.parametrize("action", ["ping", "echo.say", "session.refresh"])
async def test_a_frame_that_is_handled_after_the_expiry_has_no_effect(action: str) -> None:
    settings = GatewaySettings(**AUTH_SETTINGS)
    kind = LaneKind(app_id="gateway", persistent=True, mandatory=True)
    async with (
        Telemetry.open("gateway", settings) as telemetry,
        Admission.open(settings, telemetry) as admission,
        MemoryHub().connect(name="gateway") as broker,
        Lanes.open(broker, COMMANDS, kind, settings, telemetry) as lanes,
    ):
        closed: list[int] = []
        socket = SocketStub(closed=closed.append)
        inbound = Inbound(
            lanes, admission, Costs(telemetry), settings, telemetry, RequestSpans(settings, telemetry)
        )
        # Its timer has not run when the frame is handled, as nothing here waits before.
        identity = Identity("ana", expires_at=time.time() - 0.001)
        session = Session(socket, identity, settings, Limits(settings, telemetry))
        inbound.receive(session, make(action, {"token": "x"}).to_json())
        assert closed == [4003]
        assert [json.loads(text)["action"] for text in socket.texts] == ["session.closing"]
        session.ended()
