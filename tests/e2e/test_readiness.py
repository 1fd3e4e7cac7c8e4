"""Ready means ready: while a service's database stores nothing, ``/health/ready`` says so, and work waits for it."""

import asyncio
import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from towpath.testkit.eventually import eventually
from towpath.testkit.postgres import Postgres
from towpath.testkit.processes import Process, Processes
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System

PATIENCE: Final = 40.0

#: Makes that a database stores nothing more, or stores again.
Switch = Callable[[bool], Awaitable[None]]


async def readiness(process: Process) -> tuple[int, list[str]]:
    async with aiohttp.ClientSession() as http, http.get(f"{process.admin_url}/health/ready") as response:
        return response.status, (await response.json()).get("failing", [])


@pytest.fixture
async def postgresql(postgres: Postgres, postgres_url: str) -> AsyncIterator[tuple[str, Switch]]:
    """A database that can be made read-only."""
    name = sa.make_url(postgres_url).database
    server = create_async_engine(postgres.url("postgres"), isolation_level="AUTOCOMMIT")
    leave = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"

    async def store(on: bool) -> None:
        read_only = "off" if on else "on"
        async with server.connect() as admin:
            await admin.execute(
                sa.text(f"ALTER DATABASE {name} SET default_transaction_read_only = {read_only}")
            )
            await admin.execute(sa.text(leave))

    yield postgres_url, store
    await server.dispose()


async def fails_and_recovers(system: System, service: Process, store: Switch, work: dict[str, Any]) -> None:
    """Break the database, see that the service is not ready and that what is asked waits, and mend it."""
    async with system.connect("ana") as ana:
        await ana.next("session.welcome")
        assert (await ana.request("chat.create", {"room": "before"}))["action"] == "chat.create.ok"
        await store(False)
        await eventually(lambda: _is(service, (503, ["database"])), timeout=PATIENCE)
        asked = asyncio.create_task(ana.request(work["action"], work["data"], timeout=PATIENCE))
        for _ in range(5):  # it stays so, whatever is tried meanwhile
            await asyncio.sleep(1)  # between two looks
            assert await readiness(service) == (503, ["database"])
        assert not asked.done()
        await store(True)
        assert (await asked)["action"] == f"{work['action']}.ok"
        await eventually(lambda: _is(service, (200, [])), timeout=PATIENCE)


async def _is(process: Process, expected: tuple[int, list[str]]) -> bool:
    return await readiness(process) == expected


CREATE: Final = {"action": "chat.create", "data": {"room": "while-it-fails"}}


async def test_chat_on_a_read_only_postgresql_is_not_ready_and_recovers(
    rabbitmq: Rabbit, processes: Processes, tmp_path: Path, postgresql: tuple[str, Switch]
) -> None:
    url, store = postgresql
    system = System(rabbitmq, processes, tmp_path)
    system.gateways = [system.launch_gateway()]
    chat = system.launch_service("chat", database_url=url)
    await asyncio.gather(system.gateways[0].ready(), chat.ready())
    await fails_and_recovers(system, chat, store, CREATE)
    assert chat.output.count("database_not_writable") == 1
    await eventually(lambda: "database_writable" in chat.output, timeout=PATIENCE)


async def test_chat_whose_file_cannot_grow_is_not_ready_and_recovers(
    rabbitmq: Rabbit, processes: Processes, tmp_path: Path
) -> None:
    system = System(rabbitmq, processes, tmp_path)
    system.gateways = [system.launch_gateway()]
    chat = system.launch_service("chat")
    await asyncio.gather(system.gateways[0].ready(), chat.ready())
    _, hard = resource.prlimit(chat.pid, resource.RLIMIT_FSIZE)

    async def store(on: bool) -> None:
        # Every write of a file fails with EFBIG, as on a disk that is full it fails with ENOSPC.
        resource.prlimit(chat.pid, resource.RLIMIT_FSIZE, (hard if on else 1, hard))

    await fails_and_recovers(system, chat, store, CREATE)


async def test_a_service_waits_at_its_start_for_postgresql_and_stops_on_a_signal(
    rabbitmq: Rabbit, processes: Processes, postgres: Postgres, postgres_url: str, tmp_path: Path
) -> None:
    name = sa.make_url(postgres_url).database
    socket = tmp_path / "run"
    url = f"postgresql:///{name}?host={socket}&user=postgres"
    waiting = processes.launch("towpath-orders", amqp_url=rabbitmq.url, database_url=url)
    await eventually(lambda: "database_unreachable" in waiting.output, timeout=PATIENCE)
    assert (await readiness(waiting))[0] == 503
    assert await waiting.terminate() == 0
    waiting = processes.launch("towpath-orders", amqp_url=rabbitmq.url, database_url=url)
    await eventually(lambda: "database_unreachable" in waiting.output, timeout=PATIENCE)
    socket.symlink_to(postgres.host)
    await waiting.ready()
    assert "Traceback" not in waiting.output
