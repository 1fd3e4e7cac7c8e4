"""The pages for other backends in Python and SQL: their examples run unchanged, and their tables agree with code."""

import inspect
import json
import re
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy.ext.asyncio import create_async_engine

from towpath import publisher
from towpath.publisher import Publisher, PublisherError
from towpath.publisher.relay.commands import metrics
from towpath.publisher.relay.relay import Progress
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Processes
from towpath.testkit.rabbitmq import Rabbit
from towpath.tools.packages import POSTGRESQL, find_or_install

from .snippets import ROOT, blocks_of, rows, run, section

PYTHON = (ROOT / "docs/backends/python.md").read_text()
SQL = (ROOT / "docs/backends/sql.md").read_text()


@pytest.fixture
async def received(rabbitmq: Rabbit) -> AsyncIterator[list[dict[str, Any]]]:
    """The events that a service of the domain ``order`` gets, but for the misspelt one."""
    events: list[dict[str, Any]] = []
    async with await aio_pika.connect(rabbitmq.url) as connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange("towpath.events", "topic", durable=True)
        await channel.declare_exchange("towpath.push", "topic", durable=True)
        queue = await channel.declare_queue("orders.events", durable=True)
        for event in ("paid", "packed", "shipped"):
            await queue.bind(exchange, f"order.{event}")

        async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            events.append(json.loads(message.body))
            await message.ack()

        await queue.consume(take)
        yield events


def plain(url: str) -> str:
    return url.replace("postgresql+asyncpg://", "postgresql://")


@pytest.mark.parametrize("name", ["shop.py", "flask_shop.py"])
async def test_a_program_of_the_python_page_prints_what_the_page_shows(
    name: str, rabbitmq: Rabbit, received: list[dict[str, Any]], tmp_path: Path
) -> None:
    blocks = blocks_of(PYTHON)
    at = next(number for number, block in enumerate(blocks) if block.name == name)
    (tmp_path / name).write_text(blocks[at].text)
    printed = await run(f"python -W error {name}", folder=tmp_path, settings={"BROKER": rabbitmq.url})
    assert printed == blocks[at + 1].text.splitlines()
    await eventually(lambda: received)


async def test_the_outbox_of_the_python_page_has_the_committed_event(
    postgres_url: str, tmp_path: Path
) -> None:
    (program,) = (block.text for block in blocks_of(PYTHON) if block.name == "payments.py")
    (tmp_path / "payments.py").write_text(program)
    await run("python -W error payments.py", folder=tmp_path, settings={"DATABASE": postgres_url})
    engine = create_async_engine(postgres_url)
    async with engine.connect() as connection:
        found = await connection.exec_driver_sql("SELECT action, aggregate FROM towpath_outbox")
        assert [tuple(row) for row in found] == [("order.paid", "order:o-1")]
    await engine.dispose()


async def test_the_migration_of_the_python_page_makes_the_outbox(postgres_url: str) -> None:
    (migration,) = (block.text for block in blocks_of(PYTHON) if "def upgrade" in block.text)
    names: dict[str, Any] = {}
    engine = create_async_engine(postgres_url)

    def upgrade(connection: Any) -> None:
        with Operations.context(MigrationContext.configure(connection)):
            exec(migration, names)
            names["upgrade"]()

    async with engine.begin() as connection:
        await connection.run_sync(upgrade)
        await connection.exec_driver_sql("SELECT towpath_publish('order.paid', '{}')")
    await engine.dispose()


def test_the_python_page_lists_every_error_and_every_limit() -> None:
    errors, limits = (
        [
            row
            for row in rows(section(PYTHON, "When something is wrong"))
            if len(row) == length and "`" in row[at]
        ]
        for length, at in ((3, 0), (3, 2))
    )
    listed = {row[0].strip("`") for row in errors if row[0].startswith("`")}
    known = {
        name
        for name in publisher.__all__
        if inspect.isclass(getattr(publisher, name)) and issubclass(getattr(publisher, name), PublisherError)
    }
    assert listed == known - {"PublisherError"}
    parameters = inspect.signature(Publisher).parameters
    for _, default, argument in (row for row in limits if row[2].startswith("`")):
        number, _, unit = default.replace(",", "").partition(" ")
        expected = float(number) * (1024 * 1024 if unit == "MiB" else 1)
        assert parameters[argument.strip("`")].default == expected, argument


async def test_the_sql_page_from_the_installation_to_a_parked_event(
    rabbitmq: Rabbit,
    received: list[dict[str, Any]],
    postgres_url: str,
    processes: Processes,
    tmp_path: Path,
) -> None:
    shop, relay = (f"{name}_{secrets.token_hex(4)}" for name in ("shop", "relay"))
    psql = find_or_install(POSTGRESQL).with_name("psql")
    program = str(psql) if psql.exists() else "psql"

    async def query(script: str) -> list[str]:
        (tmp_path / "script.sql").write_text(script)
        ask = f"{program} --no-psqlrc -qtA -v ON_ERROR_STOP=1 '{plain(postgres_url)}' -f script.sql"
        return await run(ask, folder=tmp_path)

    def commands(title: str) -> list[str]:
        (block,) = (block.text for block in blocks_of(section(SQL, title), "sh"))
        own = block.replace("--publisher shop", f"--publisher {shop}").replace(
            "--relay relay", f"--relay {relay}"
        )
        return [line for line in own.splitlines() if line.startswith("towpath-relay")]

    settings = {"TOWPATH_DATABASE_URL": plain(postgres_url)}
    await query(
        f"CREATE ROLE {shop}; CREATE ROLE {relay} LOGIN; CREATE TABLE payments (order_id text, amount numeric);"
    )
    try:
        (install,) = commands("Set it up")
        await run(install, folder=tmp_path, settings=settings)
        await query(f"GRANT INSERT ON payments TO {shop};")
        (publish,) = (block.text for block in blocks_of(SQL, "sql"))
        (msg_id,) = await query(f"SET ROLE {shop}; {publish}")
        (shown,) = (block.text for block in blocks_of(section(SQL, "Publish"), "text"))
        wrong = "SELECT towpath_publish('Order paid', '{}');"
        printed = await query(f"\\set ON_ERROR_STOP off\n\\set VERBOSITY default\n{wrong}")
        assert [re.sub(r"^psql:script.sql:\d+: ", "", line) for line in printed[:2]] == shown.splitlines()

        (start,) = commands("Run the relay")
        assert start == "towpath-relay"
        login = plain(postgres_url).replace("//postgres@", f"//{relay}@")
        await processes.start(
            start, database_url=login, amqp_url=rabbitmq.url, relay_app_id="shop", relay_unroutable=0.1
        )
        await eventually(lambda: [event["msg_id"] for event in received] == [msg_id])
        for action in ("parcel.lost", "parcel.found"):
            await query(f"SELECT towpath_publish('{action}', '{{}}');")
        parked, retry, drop = commands("Events that cannot be published")
        assert (parked, retry, drop) == (
            "towpath-relay parked",
            "towpath-relay retry 17",
            "towpath-relay drop 17",
        )
        settings["TOWPATH_DATABASE_URL"] = login

        async def two() -> list[Any]:
            listed = await run(parked, folder=tmp_path, settings=settings)
            assert len(listed) == 2
            return [json.loads(line)["row"] for line in listed]

        first, second = await eventually(two, every=0.2)
        async with await aio_pika.connect(rabbitmq.url) as connection:
            queue = await (await connection.channel()).get_queue("orders.events", ensure=False)
            await queue.bind("towpath.events", "parcel.lost")
        await run(retry.replace("17", str(first)), folder=tmp_path, settings=settings)
        await run(drop.replace("17", str(second)), folder=tmp_path, settings=settings)
        await eventually(lambda: [event["action"] for event in received] == ["order.paid", "parcel.lost"])
        empty = "SELECT count(*) FROM towpath_outbox;"

        async def is_empty() -> bool:
            return await query(empty) == ["0"]

        await eventually(is_empty, every=0.2)
    finally:
        for process in processes:
            await process.terminate()
        await query(f"DROP OWNED BY {shop}, {relay}; DROP ROLE {shop}, {relay};")


def test_the_sql_page_lists_the_metrics_of_the_relay() -> None:
    listed = re.findall(r"`(towpath_relay_\w+)`", section(SQL, "Watch it"))
    assert set(listed) <= set(metrics(Progress()))
    assert set(metrics(Progress())) - set(listed) == {"towpath_relay_parked_total"}
