"""The pool of database connections: waits, use and evictions are seen, and warned of once."""

from contextlib import AsyncExitStack

import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.servicekit.storage import pool, postgresql, sqlite
from towpath.servicekit.storage.database import Database


def figures(telemetry: Telemetry) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(telemetry.exposition().decode())
        for sample in family.samples
        if not sample.labels
    }


async def test_a_pool_in_full_use_is_seen_and_warned_of_once(database_url: str, telemetry: Telemetry) -> None:
    async with Database.open(database_url, service="test", telemetry=telemetry) as database:
        most = sqlite.CONNECTIONS_MAX if database.name == "sqlite" else postgresql.CONNECTIONS_MAX
        with capture_logs() as lines:
            async with AsyncExitStack() as stack:
                for number in range(most):
                    assert figures(telemetry)["database_pool_in_use"] == number / most
                    await stack.enter_async_context(database.reading())
                assert figures(telemetry)["database_pool_in_use"] == 1
            async with AsyncExitStack() as stack:
                for _ in range(most):
                    await stack.enter_async_context(database.reading())
        shown = figures(telemetry)
    assert shown["database_pool_in_use"] == 0
    assert shown["database_pool_wait_seconds_count"] == 2 * most
    assert shown["database_pool_full_total"] == 2
    [warning] = [line for line in lines if line["event"] == "database_pool_in_use"]
    assert (warning["in_use"], warning["connections"]) == (1, most)


async def test_a_slow_wait_for_a_connection_is_counted_and_warned_of(
    database_url: str, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "SLOW_WAIT", 0.0)
    async with Database.open(database_url, service="test", telemetry=telemetry) as database:
        with capture_logs() as lines:
            for _ in range(3):
                async with database.reading():
                    pass
        shown = figures(telemetry)
    assert shown["database_pool_waits_slow_total"] == 3
    [warning] = [line for line in lines if line["event"] == "database_pool_wait"]
    assert warning["wait_ms"] >= 0


async def test_connections_that_died_are_counted_as_evicted(postgres_url: str, telemetry: Telemetry) -> None:
    others = sa.text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    async with Database.open(postgres_url, service="test", telemetry=telemetry) as database:
        async with database.reading(), database.reading() as connection:
            assert figures(telemetry)["database_connections_evicted_total"] == 0
            await connection.execute(others)
        async with database.reading(), database.reading() as connection:
            await connection.execute(sa.text("SELECT 1"))
        assert figures(telemetry)["database_connections_evicted_total"] >= 1
