"""``towpath effects``, as typed: what is listed, retried and dropped, and what is left alone."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.servicekit import KitTables
from towpath.servicekit.storage import effects
from towpath.servicekit.storage.database import Database
from towpath.servicekit.storage.effects import Asked
from towpath.tools.cli import app

METADATA: Final = sa.MetaData()
TABLE: Final = KitTables.define(METADATA, "shop").effects
T = TypeVar("T")

Towpath = Callable[..., tuple[int, str, str]]


class Shop:
    """The database of a service with effects: ``o-1`` and ``o-2`` are parked, ``o-3`` waits, ``o-4`` is called."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.act(self._fill)

    def act(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Do something in a transaction."""

        async def acted() -> T:
            async with (
                Database.open(self.url, service="shop", metadata=METADATA) as database,
                database.transaction() as connection,
            ):
                return await work(connection)

        return asyncio.run(acted())

    def rows(self) -> dict[str, Any]:
        """The rows, by their key."""

        async def read(connection: AsyncConnection) -> dict[str, Any]:
            return {row.key: row for row in await connection.execute(sa.select(TABLE))}

        return self.act(read)

    @property
    def states(self) -> dict[str, str]:
        return {key: row.state for key, row in sorted(self.rows().items())}

    async def take(self, connection: AsyncConnection) -> list[effects.Taken]:
        return await effects.take(connection, TABLE, "charge", holder="h", seconds=60, limit=9)

    async def _fill(self, connection: AsyncConnection) -> None:
        async def put(key: str, wait: int = 0) -> None:
            asked = Asked("charge", key, json.dumps({"order": key}), "", wait)
            await effects.put(connection, TABLE, [asked])

        for key in ("o-1", "o-2"):
            await put(key)
            (taken,) = await self.take(connection)
            await effects.park(connection, TABLE, taken, "RuntimeError: no \x1b[31mcard")
        await put("o-3", wait=3_600_000)
        await put("o-4")
        await self.take(connection)


@pytest.fixture
def shop(database_url: str) -> Shop:
    return Shop(database_url)


@pytest.fixture
def towpath(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Towpath:
    """Types a command; status, output and errors."""
    monkeypatch.setenv("TOWPATH_DATABASE_URL", database_url)

    def typed(*arguments: str) -> tuple[int, str, str]:
        status: Any = 0
        try:
            app(["effects", *arguments])
        except SystemExit as ended:
            status = ended.code
        printed = capsys.readouterr()
        return int(status or 0), printed.out, printed.err

    return typed


def test_parked_and_waiting_effects_are_listed_and_nothing_is_changed(shop: Shop, towpath: Towpath) -> None:
    before = shop.rows()
    status, output, _ = towpath("list", "shop")
    lines = [line.split() for line in output.splitlines()]
    assert status == 0
    assert [line[:3] for line in lines[1:-1]] == [
        ["parked", "charge", "o-1"],
        ["parked", "charge", "o-2"],
        ["waiting", "charge", "o-4"],
        ["waiting", "charge", "o-3"],
    ]
    assert lines[-1] == ["shop:", "4"]
    assert "\x1b" not in output
    assert shop.rows() == before


def test_each_is_one_json_object_with_all_that_is_known(shop: Shop, towpath: Towpath) -> None:
    _, output, _ = towpath("list", "shop", "--state", "parked", "--limit", "1", "--json")
    (one,) = map(json.loads, output.splitlines())
    due, created = one.pop("due_at"), one.pop("created_at")
    assert due >= created > 0
    assert one == {
        "service": "shop",
        "effect": "charge",
        "key": "o-1",
        "state": "parked",
        "attempts": 1,
        "error": "RuntimeError: no \x1b[31mcard",
        "is_called": False,
        "data": {"order": "o-1"},
    }


def test_a_retried_effect_is_due_at_once_with_all_its_attempts(shop: Shop, towpath: Towpath) -> None:
    assert towpath("retry", "shop", "o-2") == (0, "retried charge o-2\n1 retried\n", "")
    assert shop.states == {"o-1": "parked", "o-2": "waiting", "o-3": "waiting", "o-4": "waiting"}
    assert [(taken.key, taken.attempts) for taken in shop.act(shop.take)] == [("o-2", 1)]


def test_all_that_are_parked_are_retried_where_no_key_is_named(shop: Shop, towpath: Towpath) -> None:
    assert towpath("retry", "shop", "--effect", "other") == (0, "0 retried\n", "")
    assert towpath("retry", "shop")[1].splitlines()[-1] == "2 retried"
    assert towpath("retry", "shop") == (0, "0 retried\n", "")


def test_one_that_waits_is_due_at_once_if_it_is_said(shop: Shop, towpath: Towpath) -> None:
    assert towpath("retry", "shop", "o-3")[0] == 1
    assert towpath("retry", "shop", "o-3", "--state", "waiting")[0] == 0
    assert [taken.key for taken in shop.act(shop.take)] == ["o-3"]


def test_a_dropped_effect_is_done_without_a_call_and_its_key_stays(shop: Shop, towpath: Towpath) -> None:
    assert towpath("drop", "shop", "o-1") == (0, "dropped charge o-1\n1 dropped\n", "")

    async def again(connection: AsyncConnection) -> None:
        await effects.put(connection, TABLE, [Asked("charge", "o-1", "{}", "")])

    shop.act(again)
    row = shop.rows()["o-1"]
    assert (row.state, row.data, row.error) == ("done", "", None)


@pytest.mark.parametrize("verb", ["retry", "drop"])
def test_an_effect_whose_call_may_be_running_is_left_alone(verb: str, shop: Shop, towpath: Towpath) -> None:
    status, output, errors = towpath(verb, "shop", "o-3", "o-4", "--state", "waiting")
    assert (status, output) == (1, "")
    assert errors == (
        "towpath: no waiting effect of shop has the key 'o-4', or its call is running; nothing was changed\n"
    )
    assert shop.states == {"o-1": "parked", "o-2": "parked", "o-3": "waiting", "o-4": "waiting"}


def test_all_are_dropped_only_if_it_is_said(shop: Shop, towpath: Towpath) -> None:
    status, _, errors = towpath("drop", "shop")
    assert status == 2
    assert "--yes" in errors
    assert towpath("drop", "shop", "--yes")[1].splitlines()[-1] == "2 dropped"
    assert shop.states == {"o-1": "done", "o-2": "done", "o-3": "waiting", "o-4": "waiting"}


@pytest.mark.parametrize("name", ["stranger", "Shop; DROP TABLE", ""])
def test_a_service_without_effects_is_named(name: str, shop: Shop, towpath: Towpath) -> None:
    status, output, errors = towpath("list", name)
    assert (status, output, errors.count("\n")) == (1, "", 1)
    assert errors.startswith("towpath: ")


def test_without_a_name_services_that_are_not_there_are_left_out(shop: Shop, towpath: Towpath) -> None:
    assert towpath("list")[::2] == (0, "")


def test_a_database_that_is_not_there_is_named_and_not_made(
    towpath: Towpath, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "none.db"
    monkeypatch.setenv("TOWPATH_DATABASE_URL", f"sqlite:///{file}")
    status, _, errors = towpath("list", "shop")
    assert status == 2
    assert str(file) in errors
    assert not file.exists()


def test_without_a_database_the_setting_is_named(
    towpath: Towpath, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TOWPATH_DATABASE_URL")
    status, _, errors = towpath("list", "shop", "--data", str(tmp_path))
    assert status == 2
    assert errors.startswith("towpath: TOWPATH_DATABASE_URL: is not set, and no `towpath dev` runs in ")
