"""The listener: TLS, ports, clients that leave. Limits: test_hostile.py."""

import asyncio
import itertools
import ssl
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import httpx
import pytest

from services.ingress.tests.running import Consumer, IngressUnderTest, RunIngress, a_consumer
from towpath.ingress.app import serve
from towpath.ingress.settings import IngressSettings
from towpath.servicekit.broker.interface import Broker, Topology
from towpath.servicekit.broker.memory import MemoryBroker, MemoryHub
from towpath.servicekit.runtime.settings import BadSetting, BrokerSettings
from towpath.testkit.certificates import Authority
from towpath.testkit.processes import free_port

PAID = {"action": "order.paid", "data": {}}
HEAD = "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer {}\r\n"


async def test_with_a_certificate_it_serves_https_alone(run_ingress: RunIngress, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    own = authority.issue("localhost")
    trusting = ssl.create_default_context(cafile=authority.ca)
    names = {"tls_certificate": own.certificate, "tls_key": own.key}
    async with run_ingress(trusting=trusting, header_timeout=0.5, **names) as ingress:
        async with a_consumer(ingress.hub) as consumer:
            assert (await ingress.events(PAID)).status_code == 202
            assert len(await consumer.take(1)) == 1
        async with httpx.AsyncClient() as plain:
            with pytest.raises(httpx.TransportError):
                await plain.get(f"http://localhost:{ingress.settings.port}/")
        # A handshake that does not end.
        reader, writer = await asyncio.open_connection("127.0.0.1", ingress.settings.port)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()


async def test_a_certificate_without_its_key_ends_the_program(tmp_path: Path) -> None:
    own = Authority(tmp_path).issue("localhost")
    settings = IngressSettings(
        api_keys=str(tmp_path / "keys.json"), tls_certificate=own.certificate, admin_port=free_port()
    )
    with pytest.raises(BadSetting, match="TOWPATH_TLS_KEY: is required"):
        await serve(settings, asyncio.Event(), lambda _, name: MemoryHub().connect(name=name))


async def test_a_port_that_is_taken_ends_the_program_with_its_setting(ingress: IngressUnderTest) -> None:
    settings = IngressSettings(
        amqp_url="amqp://127.0.0.1:1/",
        api_keys=str(ingress.keys),
        port=ingress.settings.port,
        admin_port=free_port(),
    )

    def connect(_: BrokerSettings, name: str) -> AbstractAsyncContextManager[Broker]:
        return ingress.hub.connect(name=name)

    with pytest.raises(BadSetting, match=f"TOWPATH_PORT='{ingress.settings.port}'.*use another port"):
        await serve(settings, asyncio.Event(), connect)


async def test_it_is_ready_only_once_it_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, goes_on, stop = asyncio.Event(), asyncio.Event(), asyncio.Event()
    settings = IngressSettings(port=free_port(), admin_port=free_port(), api_keys=str(tmp_path / "keys.json"))

    async def declare(_: MemoryBroker, topology: Topology) -> None:
        asked.set()
        await goes_on.wait()

    monkeypatch.setattr(MemoryBroker, "declare", declare)
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks, httpx.AsyncClient() as http:
        tasks.create_task(serve(settings, stop, lambda _, name: MemoryHub().connect(name=name)))
        await asked.wait()
        admin = f"http://127.0.0.1:{settings.admin_port}/health/ready"
        assert (await http.get(admin)).json() == {"status": "not ready", "failing": ["listening"]}
        goes_on.set()
        while (await http.get(admin)).status_code != 200:
            pass
        assert (await http.get(f"http://127.0.0.1:{settings.port}/")).status_code == 404
        stop.set()


async def test_a_client_that_leaves_within_its_body_causes_no_error(
    ingress: IngressUnderTest, consumer: Consumer, caplog: pytest.LogCaptureFixture
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", ingress.settings.port)
    writer.write(HEAD.format(ingress.key).encode() + b"Content-Length: 100\r\n\r\n{")
    await writer.drain()
    await asyncio.sleep(0.1)  # the server has begun to read the body
    writer.transport.abort()
    assert (await ingress.events(PAID)).status_code == 202
    assert len(await consumer.take(1)) == 1
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_client_that_leaves_before_the_answer_changes_nothing(
    ingress: IngressUnderTest, consumer: Consumer
) -> None:
    ingress.hub.hold_confirms()
    _, writer = await asyncio.open_connection("127.0.0.1", ingress.settings.port)
    body = b'{"action":"order.paid","data":{}}'
    writer.write(HEAD.format(ingress.key).encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    await consumer.take(1)
    writer.transport.abort()
    ingress.hub.release_confirms()
    assert (await ingress.events(PAID)).status_code == 202


async def test_pipelined_requests_are_answered_in_their_order(
    ingress: IngressUnderTest, consumer: Consumer
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", ingress.settings.port)
    for number in range(20):
        body = b'{"action":"order.paid","msg_id":"m-%d","data":{}}' % number
        writer.write(HEAD.format(ingress.key).encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    ids = [f"m-{number}" for number in range(20)]
    assert [one["msg_id"] for one in await consumer.take(20)] == ids
    text = b""
    async with asyncio.timeout(10):
        while text.count(b'"accepted"') < 20:
            text += await reader.read(65536)
    assert all(
        text.index(f'"{one}"'.encode()) < text.index(f'"{two}"'.encode())
        for one, two in itertools.pairwise(ids)
    )
    writer.close()
