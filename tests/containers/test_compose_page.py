"""docs/operations/compose.md, done by a new user: each block as it is there, while other people talk."""

import asyncio
import contextlib
import re
import secrets
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from websockets.exceptions import InvalidStatus

from towpath.testkit.certificates import Authority
from towpath.testkit.client import WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import free_port
from towpath.testkit.tokens import a_token

from .compose import Compose, docker
from .conversation import HEAL_SECONDS, Conversation, gateway_url, token
from .page import Reader, remove_images

#: The id that the page has for any message.
_EXAMPLE: Final = "req-123456"


@pytest.fixture(scope="module")
def own_image(image: str) -> Iterator[str]:
    """A name of the image that the page's builds may take away from it."""
    name = f"towpath-test:{secrets.token_hex(4)}"
    docker("tag", image, name)
    yield name
    remove_images(name)


@pytest.fixture(scope="module")
def compose(own_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """A project of its own: these tests change its secrets."""
    with Compose(own_image, tmp_path_factory.mktemp("page")) as compose:
        yield compose


@pytest.fixture(scope="module")
def reader(compose: Compose, own_image: str) -> Reader:
    """A reader who has done "Deploy"."""
    reader = Reader(compose, own_image)
    asyncio.run(reader.paste(reader.blocks("Deploy")[0]))
    return reader


async def gateways(compose: Compose) -> set[str]:
    """The gateways that nine new clients are given."""
    async with contextlib.AsyncExitStack() as stack:
        url, given = gateway_url(compose), token(compose, "cleo")
        clients = [await stack.enter_async_context(WireClient.connect(url, token=given)) for _ in range(9)]
        return {(await client.next("session.welcome"))["data"]["gateway_id"] for client in clients}


async def is_admitted(compose: Compose, secret: str) -> bool:
    """Whether gateways take a token that is signed with this secret."""
    try:
        async with WireClient.connect(gateway_url(compose), token=a_token("cleo", secret=secret)) as cleo:
            await cleo.next("session.welcome")
            return True
    except InvalidStatus as refusal:
        if refusal.response.status_code != 401:
            raise
        return False


async def test_after_deploy_a_message_is_sent_from_a_terminal(reader: Reader) -> None:
    _, send = reader.blocks("Deploy")
    assert '"seq"' in await reader.paste(send)


async def test_a_third_gateway_and_more_replicas_come_and_go_while_people_talk(
    reader: Reader, compose: Compose
) -> None:
    async with Conversation.open(compose) as conversation:
        (third,) = reader.blocks("Three gateways")
        status = await conversation.goes_on_during(reader.paste(third))
        assert re.search(r"^gateway-3 ", status, re.M), status

        async def all_three() -> bool:
            return await gateways(compose) == {"gateway-1", "gateway-2", "gateway-3"}

        await eventually(all_three, timeout=HEAL_SECONDS, every=1)

        (more,) = reader.blocks("More replicas of a service")
        await conversation.goes_on_during(reader.paste(more))
        assert len(compose.containers("chat")) == 3

        gateway_out, replica_out = reader.blocks("Take a replica out")
        status = await conversation.goes_on_during(reader.paste(gateway_out))
        assert not re.search(r"^gateway-3 ", status, re.M), status
        assert await gateways(compose) == {"gateway-1", "gateway-2"}
        await conversation.goes_on_during(reader.paste(replica_out))
        assert len(compose.containers("chat")) == 1
        await conversation.is_complete()
    assert "COMPOSE_PROFILES" not in compose.secrets


async def test_a_parked_message_is_found_and_replayed(reader: Reader, compose: Compose) -> None:
    def on_database(statement: str) -> None:
        compose.execute("postgres", "psql", "--username=postgres", "--quiet", "--command", statement, "chat")

    (block,) = reader.blocks("A parked message")
    *find, dry_run, replay, after = (line.replace(_EXAMPLE, "a-mill") for line in block.splitlines())
    async with Conversation.open(compose) as conversation:
        on_database("ALTER TABLE chat_messages ADD CONSTRAINT no_mill CHECK (text <> 'the mill')")
        try:
            sent = {"room": conversation.room, "text": "the mill"}
            # Not by the follower, which would send it again: `internal` is retryable.
            async with WireClient.connect(gateway_url(compose), token=token(compose, "ana")) as ana:
                refused = await ana.request("chat.send", sent, msg_id="a-mill")
            assert refused["data"]["code"] == "internal", refused
            found = await reader.paste("\n".join(find))
            assert re.search(r"^chat\.dead: 1 of 1$", found, re.M), found
            assert "no_mill" in found, "the reason names the cause"
        finally:
            on_database("ALTER TABLE chat_messages DROP CONSTRAINT no_mill")
        assert "1 would be replayed" in await reader.paste(dry_run)
        assert "1 replayed" in await reader.paste(replay)
        conversation.texts.append("the mill")
        await conversation.is_complete()
        assert re.search(r"^chat\.dead: 0 of 0$", await reader.paste(after), re.M)


async def test_the_secret_is_replaced_and_no_user_has_to_sign_in_again(
    reader: Reader, compose: Compose
) -> None:
    accept_both, sign_with_new, forget = reader.blocks("A new secret")
    old = compose.secrets["TOWPATH_AUTH_SECRET"]
    # Both people keep their tokens of the old secret.
    async with Conversation.open(compose) as conversation:
        await conversation.goes_on_during(reader.paste(accept_both))
        new = compose.secrets["TOWPATH_AUTH_SECRET"]
        assert new != old
        assert await is_admitted(compose, old)
        assert await is_admitted(compose, new)
        await conversation.goes_on_during(reader.paste(sign_with_new))
        made = compose.execute("web", "towpath", "token", "--user", "cleo").strip()
        async with WireClient.connect(gateway_url(compose), token=made) as cleo:
            await cleo.next("session.welcome")
        await conversation.is_complete()
    await reader.paste(forget)
    assert not await is_admitted(compose, old)
    assert await is_admitted(compose, new)


async def test_passwords_are_replaced_and_a_message_waits_for_seconds_at_most(
    reader: Reader, compose: Compose
) -> None:
    before = compose.secrets
    async with Conversation.open(compose) as conversation:
        for block in reader.blocks("A new password at RabbitMQ"):
            await conversation.goes_on_during(reader.paste(block))
        await conversation.is_complete()
    changed = {name for name, value in compose.secrets.items() if before[name] != value}
    assert changed == {"TOWPATH_BROKER_PASSWORD_CHAT", "CHAT_DATABASE_PASSWORD"}
    (chat,) = compose.containers("chat")
    environment = "\n".join(chat["Config"]["Env"])
    assert all(compose.secrets[name] in environment for name in changed)


async def test_a_new_version_is_deployed_while_people_talk(reader: Reader, compose: Compose) -> None:
    def images() -> set[str]:
        return {
            one["Image"] for one in compose.containers("gateway-1", "gateway-2", "chat", "web", "ingress")
        }

    before = images()
    (upgrade,) = reader.blocks("A new version")
    async with Conversation.open(compose) as conversation:
        await conversation.goes_on_during(reader.paste(upgrade))
        await conversation.is_complete()
    assert len(images()) == 1
    assert images() != before


async def test_a_database_is_backed_up_and_restored(reader: Reader, compose: Compose) -> None:
    back_up, restore = reader.blocks("Back up and restore")
    async with Conversation.open(compose) as conversation:
        ana, room = conversation.ana, conversation.room
        await conversation.say("before")
        await reader.paste(back_up)
        await conversation.say("after, and lost")
        await reader.paste(restore)
        await conversation.say("again")
        history = await ana.request("chat.history", {"room": room}, msg_id=f"history-{room}")
        assert [message["text"] for message in history["data"]["messages"]] == ["before", "again"]
        assert history["data"]["seq"] > 1_000_000


async def test_made_yours_it_has_tls_and_no_demo_and_takes_a_renewed_certificate(
    reader: Reader, compose: Compose, tmp_path: Path
) -> None:
    (override,) = reader.blocks("Make it yours", "yaml")
    start, renew = reader.blocks("Make it yours")
    own = re.sub(r"(?m)^ +TOWPATH_AUTH_.*\n", "", override)  # as the page says of a shared secret
    port = free_port()
    for shown, here in (
        ("- 443:", f"- 127.0.0.1:{port}:"),
        ("- 127.0.0.1:8090:", f"- 127.0.0.1:{free_port()}:"),
        ("./haproxy.cfg:", f"{compose.folder}/haproxy.cfg:"),
        ("./certs:", f"{compose.folder}/certs:"),
    ):
        assert own.count(shown) == 1, shown
        own = own.replace(shown, here)
    authority = Authority(tmp_path)
    trust = ssl.create_default_context(cafile=authority.ca)
    certificates = compose.folder / "certs"
    certificates.mkdir()

    def issue() -> None:
        site = authority.issue("localhost")
        parts = (Path(path).read_text() for path in (site.certificate, site.key))
        (certificates / "site.pem").write_text("".join(parts))

    async def served() -> str:
        _, writer = await asyncio.open_connection("localhost", port, ssl=trust)
        serial: str = writer.get_extra_info("peercert")["serialNumber"]
        writer.close()
        return serial

    issue()
    added = compose.folder / "docker-compose.override.yml"
    added.write_text(own)
    try:
        await reader.paste(start)
        assert "web" not in compose.services()
        url, given = f"wss://localhost:{port}/ws", token(compose, "ana")
        async with WireClient.connect(url, token=given, ssl=trust) as ana:
            first = await served()
            issue()
            await reader.paste(renew)

            async def is_renewed() -> bool:
                return await served() != first

            await eventually(is_renewed, timeout=HEAL_SECONDS, every=0.5)
            assert (await ana.request("ping"))["action"] == "pong"
    finally:
        added.unlink()
        await asyncio.to_thread(compose.up)


async def test_a_cluster_loses_any_node_and_no_message(reader: Reader, compose: Compose) -> None:
    three_nodes, grow, use = reader.blocks("Three nodes of RabbitMQ")
    status = await reader.paste(three_nodes)
    for node in ("rabbit@rabbitmq", "rabbit@rabbitmq-2", "rabbit@rabbitmq-3"):
        assert re.search(rf"^{node}$", status, re.M), status
    await reader.paste(grow)
    await reader.paste(use)
    async with Conversation.open(compose) as conversation:
        for node in ("rabbitmq", "rabbitmq-2", "rabbitmq-3"):
            await conversation.goes_on_during(asyncio.to_thread(compose.command, "stop", node))
            await conversation.goes_on_during(asyncio.to_thread(compose.up, "--no-recreate"))
        await conversation.is_complete()
