"""Errors in words: the problem is logged, and no text of a user."""

import re
import sys
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pydantic
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from towpath.servicekit.runtime.error_text import describe_error, traceback_text
from towpath.testkit.processes import Processes

MARKER: Final = "what-somebody-wrote"
ROWS: Final = sa.table("rows", sa.column("name"), sa.column("value"))


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.execute(
            sa.text(
                "CREATE TABLE rows (name VARCHAR(30) PRIMARY KEY, value INTEGER NOT NULL CHECK (value < 100))"
            )
        )
        await connection.execute(ROWS.insert(), [{"name": MARKER, "value": 1}])
    yield engine
    await engine.dispose()


STATEMENTS: Final[dict[str, tuple[Any, dict[str, Any]]]] = {
    "unique": (ROWS.insert(), {"name": MARKER, "value": 1}),
    "not null": (ROWS.insert(), {"name": f"{MARKER} 2", "value": None}),
    "check": (ROWS.insert(), {"name": f"{MARKER} 2", "value": 1000}),
    "too large": (ROWS.insert(), {"name": f"{MARKER} 2", "value": 2**70}),
    "no text": (ROWS.insert(), {"name": f"{MARKER}\ud800", "value": 1}),
    "no such table": (sa.text("SELECT * FROM nowhere WHERE x = :x"), {"x": MARKER}),
    "parameter missing": (sa.text("SELECT :x, :y"), {"x": MARKER}),
}


async def failure(engine: AsyncEngine, statement: Any, row: dict[str, Any]) -> Exception:
    try:
        async with engine.begin() as connection:
            await connection.execute(statement, [row])
    except Exception as error:
        return error
    raise AssertionError("nothing failed")


@pytest.mark.parametrize("what", STATEMENTS)
async def test_a_database_error_is_formatted_without_the_values_of_the_row(
    engine: AsyncEngine, what: str
) -> None:
    error = await failure(engine, *STATEMENTS[what])
    assert MARKER not in describe_error(error)
    assert MARKER not in traceback_text(error)
    assert describe_error(error).startswith(f"{type(error).__name__}: ")


async def test_the_constraint_that_a_row_breaks_is_named_with_the_remedy(engine: AsyncEngine) -> None:
    said, _, remedy = describe_error(await failure(engine, *STATEMENTS["unique"])).partition("; ")
    assert said in (
        "IntegrityError: UNIQUE constraint failed: rows.name",
        "IntegrityError: UniqueViolationError (23505): duplicate key value violates unique constraint "
        '"rows_pkey" [constraint rows_pkey, table rows]',
    )
    assert remedy.startswith("the row exists: `load` of the unit of work must read it")


@pytest.mark.parametrize(
    "statement",
    ["SELECT * FROM nowhere", "SELECT missing FROM rows", "INSERT INTO rows (missing) VALUES (1)"],
)
async def test_a_missing_table_or_column_is_named_with_the_remedy(
    engine: AsyncEngine, statement: str
) -> None:
    said, _, remedy = describe_error(await failure(engine, sa.text(statement), {})).partition("; ")
    assert re.search("nowhere|missing", said)
    assert remedy == "a migration that makes it is missing in the service's folder of migrations"


@pytest.mark.parametrize("what", [what for what in STATEMENTS if what not in ("unique", "no such table")])
async def test_no_remedy_is_named_for_another_error(engine: AsyncEngine, what: str) -> None:
    said = describe_error(await failure(engine, *STATEMENTS[what]))
    assert "unit of work" not in said
    assert "migration" not in said


@pytest.mark.parametrize("text", [f"'{MARKER}'::integer", "(:x)::integer", "(:x)::date", "(:x)::json"])
async def test_a_value_that_postgresql_cannot_read_is_not_quoted(postgres_url: str, text: str) -> None:
    engine = create_async_engine(postgres_url)
    try:
        async with engine.connect() as connection:
            with pytest.raises(sa.exc.DBAPIError) as failed:
                await connection.execute(
                    sa.text(f"SELECT CAST({text.partition('::')[0]} AS {text.partition('::')[2]})"),
                    {"x": MARKER} if ":x" in text else {},
                )
    finally:
        await engine.dispose()
    assert MARKER not in traceback_text(failed.value)


class Model(pydantic.BaseModel):
    count: int
    kind: str = pydantic.Field(max_length=3)


def _key_error() -> object:
    return dict[str, str]()[MARKER]


@pytest.mark.parametrize(
    "fail",
    [
        lambda: int(MARKER),
        lambda: float(MARKER),
        lambda: Decimal(MARKER),
        _key_error,
        lambda: list[str]().index(MARKER),
        lambda: Model.model_validate({"count": MARKER, "kind": MARKER}),
        lambda: MARKER.encode("utf-8")[:3].decode("utf-16"),
        lambda: __import__("datetime").datetime.fromisoformat(MARKER),
    ],
)
def test_values_that_python_and_pydantic_quote_are_left_out(fail: Callable[[], object]) -> None:
    with pytest.raises(Exception) as failed:  # of several classes
        fail()
    assert MARKER not in traceback_text(failed.value)


def test_causes_are_formatted_alike_root_cause_first() -> None:
    def outer() -> None:
        try:
            int(MARKER)
        except ValueError as error:
            raise ExceptionGroup("two", [RuntimeError("went wrong"), KeyError(MARKER)]) from error

    with pytest.raises(ExceptionGroup) as failed:
        outer()
    shown = traceback_text(failed.value)
    assert MARKER not in shown
    said = ["ValueError: invalid literal", "ExceptionGroup: two", "RuntimeError: went wrong", "KeyError: '…'"]
    places = [shown.index(one) for one in said]
    assert places == sorted(places)
    assert "in outer" in shown


def test_a_ring_of_causes_ends() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert traceback_text(one).count("ValueError: ") == 2


def test_names_of_code_and_files_are_kept() -> None:
    assert describe_error(AttributeError("'NoneType' object has no attribute 'x'")).endswith("attribute 'x'")
    assert describe_error(FileNotFoundError(2, "No such file", "/etc/x")).endswith("'/etc/x'")
    assert describe_error(RuntimeError("room 'x' is gone")) == "RuntimeError: room 'x' is gone"


@given(st.text(), st.sampled_from([ValueError, KeyError, RuntimeError, OSError]))
def test_whatever_an_error_says_it_is_one_line_that_can_be_encoded(text: str, kind: type[Exception]) -> None:
    shown = describe_error(kind(text))
    assert shown.encode()
    assert "\n" not in shown
    assert len(shown) <= 500


# Log lines

PROGRAM: Final = """
import asyncio, gc, logging, sys
import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from towpath.servicekit.runtime.loops import keep_running
from towpath.servicekit.runtime.run import run
from towpath.servicekit.runtime.settings import BrokerSettings

MARKER = "a-text-of-" + "a-user"
log = structlog.get_logger("test")


async def fail():
    engine = create_async_engine("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE rows (name VARCHAR(30) PRIMARY KEY)"))
        await connection.execute(text("INSERT INTO rows VALUES (:name)"), [{"name": MARKER}, {"name": MARKER}])


async def serve(settings, stop):
    for number in range(2):
        try:
            await fail()
        except DBAPIError as error:
            log.exception("by structlog")
            log.error("with the error", exc_info=error)
            logging.getLogger("a library").exception("by logging")
    looping = asyncio.create_task(keep_running("loop", fail, pause=0.01))
    forgotten = asyncio.create_task(fail())
    await asyncio.wait([looping, forgotten], timeout=0.5)
    looping.cancel()
    del forgotten
    gc.collect()
    await asyncio.sleep(0)
    await fail()


run("example", serve, BrokerSettings)
"""


@pytest.mark.parametrize("form", ["json", "console"])
async def test_no_log_line_of_an_error_contains_user_text(
    processes: Processes, tmp_path: Path, form: str
) -> None:
    program = tmp_path / "example.py"
    program.write_text(PROGRAM)
    process = processes.launch(sys.executable, str(program), log_format=form)
    assert await process.ended() == 1
    output = process.output
    for event in (
        "by structlog",
        "with the error",
        "by logging",
        "loop_failed",
        "never retrieved",
        "crashed",
    ):
        assert event in output
    assert "UNIQUE constraint failed: rows.name" in output
    assert MARKER not in output
