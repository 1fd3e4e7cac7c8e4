"""A database dies, is full, or does not say whether it has committed."""

import asyncio
from pathlib import Path

from towpath.testkit.network import Proxy
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System

from .conftest import StartSystem
from .disks import SmallDisk
from .postgres_server import PostgresServer
from .trial import Trial


async def on_postgresql(
    rabbitmq: Rabbit, start_system: StartSystem, chat_url: str, orders_url: str
) -> System:
    """A system whose services keep everything in PostgreSQL."""
    system = await start_system(rabbitmq)
    await asyncio.gather(system.chat.terminate(), system.orders.terminate())
    system.chat = system.launch_service("chat", database_url=chat_url)
    system.orders = system.launch_service("orders", database_url=orders_url)
    await asyncio.gather(system.chat.ready(), system.orders.ready())
    return system


async def test_a_service_waits_for_a_killed_database(
    rabbitmq: Rabbit, start_system: StartSystem, server: PostgresServer, trial: Trial
) -> None:
    urls = [server.create(name) for name in ("chat", "orders")]
    system = await on_postgresql(rabbitmq, start_system, *urls)
    async with trial.of("PostgreSQL killed, back after 5 s", system, within=15):
        server.kill()
        await asyncio.sleep(5)
        server.start()
        trial.strike()


async def test_a_commit_of_unknown_outcome_is_checked_and_takes_effect_once(
    rabbitmq: Rabbit, start_system: StartSystem, server: PostgresServer, trial: Trial
) -> None:
    urls = [server.create(name) for name in ("chat", "orders")]
    async with Proxy.open("127.0.0.1", server.port) as proxy:
        system = await on_postgresql(rabbitmq, start_system, *(proxy.instead_of(url) for url in urls))
        async with trial.of("answers to COMMIT lost five times, half before it", system, within=15) as load:
            for turn in range(6):
                await load.flows(15, timeout=60)
                # Towards the server the COMMIT itself is lost; towards the service only the word that it is done.
                if turn % 2:
                    proxy.to_server.hold(at=b"COMMIT")
                else:
                    proxy.to_client.hold(at=b"COMMIT")
                await asyncio.sleep(0.5)
                proxy.reset()
                proxy.heal()
                trial.strike()


async def test_a_full_disk_causes_no_false_answer_and_the_service_recovers(
    rabbitmq: Rabbit, start_system: StartSystem, tmp_path: Path, trial: Trial
) -> None:
    fault = "SQLite's disk full for 6 s"
    if not SmallDisk.may_be_mounted():
        trial.not_run(fault, "a disk to fill is a mount, and that needs root")
    with SmallDisk.mounted(tmp_path / "disk", megabytes=24) as disk:
        system = await start_system(rabbitmq)
        await asyncio.gather(system.chat.terminate(), system.orders.terminate())
        for name in ("chat", "orders"):
            url = f"sqlite:///{disk.folder}/{name}.db"
            setattr(system, name, system.launch_service(name, database_url=url))
        await asyncio.gather(system.chat.ready(), system.orders.ready())
        async with trial.of(fault, system, within=20) as load:
            disk.fill()
            done = len(load.journal.asked)
            await asyncio.sleep(6)
            # Writes that fit into the allocated pages may still be stored; then it ends.
            assert len(load.journal.asked) - done < 1000
            disk.empty()
            trial.strike()
