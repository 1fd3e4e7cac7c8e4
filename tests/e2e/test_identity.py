"""The gateway as a program: which keys it starts with, and tokens of an issuer with a key set."""

import secrets
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from towpath.servicekit.runtime.exit_status import ExitStatus
from towpath.testkit.client import WireClient
from towpath.testkit.issuer import an_issuer
from towpath.testkit.processes import Processes, free_port
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.tokens import SECRET, a_token


def _short_key() -> str:
    key = rsa.generate_private_key(65537, 1024).public_key()
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"auth_secret": secrets.token_hex(15)}, "TOWPATH_AUTH_SECRET: has 30 bytes"),
        ({"auth_secret": "x" * 40}, "TOWPATH_AUTH_SECRET: has fewer than 4 different bytes"),
        ({"auth_secret": SECRET}, "TOWPATH_AUTH_SECRET: is published"),
        ({"auth_secret": _short_key().strip()}, "TOWPATH_AUTH_SECRET: is a key or certificate"),
        (
            {"auth_secret": secrets.token_hex(32), "auth_secret_previous": SECRET},
            "TOWPATH_AUTH_SECRET_PREVIOUS: is published",
        ),
        ({"auth_public_key": _short_key()}, "TOWPATH_AUTH_PUBLIC_KEY: has 1024 bits"),
        ({}, "TOWPATH_AUTH_SECRET: set exactly one of"),
        (
            {"auth_jwks_url": "http://login.example/keys"},
            "TOWPATH_AUTH_JWKS_URL: the keys of login.example must",
        ),
        (
            {"auth_secret": SECRET, "development": True, "host": "0.0.0.0"},
            "TOWPATH_HOST='0.0.0.0': is reachable",
        ),
    ],
)
async def test_a_gateway_does_not_start_with_a_key_that_others_may_have(
    processes: Processes, settings: dict[str, Any], why: str
) -> None:
    # Not reachable: the keys are checked before the broker is.
    amqp_url = f"amqp://127.0.0.1:{free_port()}/"
    gateway = processes.launch("towpath-gateway", port=free_port(), amqp_url=amqp_url, **settings)
    assert await gateway.ended() == ExitStatus.BAD_SETTING
    [line] = [line for line in gateway.output.splitlines() if not line.startswith("{")]
    assert line.startswith(f"towpath-gateway: {why}")
    assert SECRET not in gateway.output


async def test_a_gateway_needs_only_the_address_of_the_key_set(
    processes: Processes, rabbitmq: Rabbit
) -> None:
    async with an_issuer() as issuer:
        port = free_port()
        await processes.start("towpath-gateway", port=port, amqp_url=rabbitmq.url, auth_jwks_url=issuer.url)
        for _ in range(2):
            async with WireClient.connect(f"ws://127.0.0.1:{port}/ws", token=issuer.token("ana")) as ana:
                assert (await ana.next("session.welcome"))["data"]["user_id"] == "ana"
                assert (await ana.request("ping"))["action"] == "pong"
            issuer.rotate("EdDSA")


async def test_a_random_secret_is_enough_to_start_with(processes: Processes, rabbitmq: Rabbit) -> None:
    secret, port = secrets.token_urlsafe(32), free_port()
    gateway = await processes.start(
        "towpath-gateway", port=port, amqp_url=rabbitmq.url, auth_secret=secret, host="0.0.0.0"
    )
    async with WireClient.connect(f"ws://127.0.0.1:{port}/ws", token=a_token("ana", secret=secret)) as ana:
        await ana.next("session.welcome")
    assert "development_mode" not in gateway.output


async def test_a_new_secret_beside_the_previous_one_closes_no_door_to_users(
    processes: Processes, rabbitmq: Rabbit
) -> None:
    old, new, port = secrets.token_urlsafe(32), secrets.token_urlsafe(32), free_port()
    gateway = await processes.start(
        "towpath-gateway", port=port, amqp_url=rabbitmq.url, auth_secret=new, auth_secret_previous=old
    )
    url = f"ws://127.0.0.1:{port}/ws"
    async with WireClient.connect(url, token=a_token("ana", secret=old)) as ana:
        await ana.next("session.welcome")
        refreshed = await ana.request("session.refresh", {"token": a_token("ana", secret=new)})
        assert refreshed["action"] == "session.refresh.ok", refreshed
    async with aiohttp.ClientSession() as http, http.get(f"{gateway.admin_url}/metrics") as response:
        assert "\ntokens_previous_secret_total 1.0\n" in await response.text()
