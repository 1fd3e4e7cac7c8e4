"""A service's next release runs beside the present one: its migration expands the schema while that one works."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

import towpath.orders
from towpath.testkit.processes import Process
from towpath.testkit.rabbitmq import Rabbit

from .conftest import StartSystem
from .trial import Trial

_PATIENCE: Final = 120.0
_OPERATIONS: Final = 150  # between two changes
_MIGRATION: Final = '''
"""Where an order was placed, and the places."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0005", "0004"


def upgrade() -> None:
    op.add_column("orders", sa.Column("place", sa.Text))
    op.create_table("orders_places", sa.Column("place", sa.Text, primary_key=True))
'''
#: The new column is read with each order, and written by no release yet.
_COLUMN: Final = 'sa.Column("detail", sa.Text),'
_TABLE: Final = (
    '\nPLACES: Final = sa.Table("orders_places", METADATA, sa.Column("place", sa.Text, primary_key=True))\n'
)


def next_release(folder: Path) -> Path:
    """The present code with one more migration; returns the folder to find it in."""
    package = folder / "towpath/orders"
    shutil.copytree(Path(towpath.orders.__file__).parent, package)
    assert (package / "migrations/0004_repeats.py").exists()
    (package / "migrations/0005_places.py").write_text(_MIGRATION)
    tables = (package / "tables.py").read_text()
    changed = tables.replace(_COLUMN, f'{_COLUMN}\n    sa.Column("place", sa.Text),', 1)
    assert changed != tables
    (package / "tables.py").write_text(changed + _TABLE)
    return folder


@pytest.mark.faults_short
@pytest.mark.timeout(400)
async def test_an_old_release_works_beside_a_new_one_that_migrates_the_database_and_nothing_fails(
    rabbitmq: Rabbit,
    start_system: StartSystem,
    postgres_url: str,
    tmp_path: Path,
    trial: Trial,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = await start_system(rabbitmq)
    await system.orders.terminate()
    new = next_release(tmp_path / "new")

    def launch(*, is_new: bool) -> Process:
        with monkeypatch.context() as context:
            if is_new:
                context.setenv("PYTHONPATH", str(new))
            return system.launch_service("orders", database_url=postgres_url.replace("+asyncpg", ""))

    async def start(count: int, *, is_new: bool) -> list[Process]:
        started = [launch(is_new=is_new) for _ in range(count)]
        await asyncio.gather(*(one.ready(timeout=_PATIENCE) for one in started))
        return started

    async def stop(*replicas: Process) -> None:
        for one in replicas:
            assert await one.terminate(timeout=_PATIENCE) == 0, one.output

    old = await start(2, is_new=False)
    system.orders = old[0]
    async with trial.of("an old release beside a new one, and back again", system) as load:
        assert await revision(postgres_url) == "0004"
        # Two replicas of the new release migrate at the same moment, while the old ones work.
        newer = await start(2, is_new=True)
        assert await revision(postgres_url) == "0005"
        await load.flows(_OPERATIONS)
        # One of the old ones is started again on the new schema.
        await stop(old.pop())
        old += await start(1, is_new=False)
        assert newer_schemas(old[1]) == ["orders_version 0005 (this release has 0004)"]
        await load.flows(_OPERATIONS)
        await stop(*old)
        await load.flows(_OPERATIONS)
        # And the way back: the old release alone, without a restored backup.
        old = await start(1, is_new=False)
        await stop(*newer)
        await load.flows(_OPERATIONS)
    for replica in (*old, *newer):
        assert failures(replica) == [], replica.output


async def revision(url: str) -> Any:
    """The revision of the database."""
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        found = await connection.scalar(sa.text("SELECT version_num FROM orders_version"))
    await engine.dispose()
    return found


def lines(replica: Process) -> list[dict[str, Any]]:
    return [json.loads(line) for line in replica.output.splitlines() if line.startswith("{")]


def newer_schemas(replica: Process) -> list[str]:
    """Each time that it says that the schema is newer."""
    return [line["ahead"] for line in lines(replica) if line["event"] == "schema_is_newer"]


def failures(replica: Process) -> list[dict[str, Any]]:
    """Lines about units of work or messages that failed."""
    return [line for line in lines(replica) if line["level"] in ("error", "critical")]
