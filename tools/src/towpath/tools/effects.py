"""``towpath effects``: look at calls to the outside that wait or failed for good, retry them, or drop them.

Guarantees: a look changes nothing. An effect whose call may be running is left alone. A retry or drop is one
transaction for each service, and prints a line for each effect.
"""

import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from rich.table import Table
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.servicekit.installed import installed_services
from towpath.servicekit.runtime.settings import BadSetting, ServiceSettings, load
from towpath.servicekit.runtime.tls import TlsFiles
from towpath.servicekit.storage import effect_repairs
from towpath.servicekit.storage.database import Database
from towpath.servicekit.storage.effect_repairs import Row, Wanted
from towpath.servicekit.storage.effects import effects_table
from towpath.tools.data_folder import DataFolder
from towpath.tools.listing import console, plain, when
from towpath.tools.trouble import Interrupted, Trouble

_DATABASE_URL: Final = "TOWPATH_DATABASE_URL"
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")

#: Changes rows of the table; returns name and key of each.
_Change = Callable[[AsyncConnection, sa.Table, Wanted], Awaitable[list[tuple[str, str]]]]


class NoEffects(Trouble):
    """The service has no table of effects in this database."""


class NoSuchEffect(Trouble):
    """Nothing of that name waits or is parked, or its call may be running."""


class NotSaid(Trouble):
    """The command would do more than was asked for."""

    status = 2


# The commands


def list_(service: str | None, wanted: Wanted, *, limit: int, as_json: bool, data: Path) -> None:
    """Print effects, those first that are due longest.

    Raises:
        NoEffects: Of the named service; one that is not named is left out.
    """

    async def look(name: str, database: Database) -> None:
        async with database.reading() as connection:
            rows, count = await effect_repairs.find(connection, _table(name), wanted, limit=limit)
        _print(name, rows, count, as_json=as_json)

    for name in [service] if service is not None else [one.name for one in installed_services()]:
        try:
            _run(name, look, data)
        except NoEffects:
            if service is not None:
                raise


def retry(service: str, wanted: Wanted, *, data: Path) -> None:
    """Make effects due now, with all their attempts.

    Raises:
        NoSuchEffect: One of the keys is not there; nothing is changed.
    """
    _do(service, wanted, effect_repairs.retry, "retried", data)


def drop(service: str, wanted: Wanted, *, yes: bool, data: Path) -> None:
    """End effects without a call, for good.

    Raises:
        NotSaid: Without keys, and without a confirmation.
        NoSuchEffect: One of the keys is not there; nothing is changed.
    """
    if not (wanted.keys or yes):
        raise NotSaid(
            f"this would drop all {' and '.join(wanted.states)} effects of {service}: say --yes, or name their keys"
        )
    _do(service, wanted, effect_repairs.drop, "dropped", data)


# Doing


def _do(service: str, wanted: Wanted, change: _Change, verb: str, data: Path) -> None:
    async def act(name: str, database: Database) -> None:
        async with database.transaction() as connection:
            changed = await change(connection, _table(name), wanted)
            missing = sorted(wanted.keys - {key for _, key in changed})
            if missing:
                # Raised inside: the transaction is rolled back.
                raise NoSuchEffect(
                    f"no {' or '.join(wanted.states)} effect of {name} has the key {missing[0][:70]!a}, or its call "
                    f"is running; nothing was changed"
                )
        for effect, key in changed:
            print(f"{verb} {effect} {key}")  # noqa: T201  # a command speaks to a person
        print(f"{len(changed)} {verb}")  # noqa: T201  # a command speaks to a person

    _run(service, act, data)


def _run(service: str, work: Callable[[str, Database], Awaitable[None]], data: Path) -> None:
    """Do ``work`` with the database of a service.

    Raises:
        BadSetting: There is no such database.
        NoEffects, Interrupted
    """
    if not _NAME.fullmatch(service):
        raise NoEffects(f"{service[:70]!a} is not the name of a service")
    url, tls = _database_of(service, DataFolder(data))

    async def opened() -> None:
        async with Database.existing(url, service=service, tls=tls) as database:
            try:
                await work(service, database)
            except (sa.exc.OperationalError, sa.exc.ProgrammingError) as error:
                if f"{service}_effects" in str(error.orig):
                    raise NoEffects(
                        f"the database has no table {service}_effects: no service of that name has run on it"
                    ) from None
                raise _unusable(error.orig or error) from None
            except (sa.exc.DBAPIError, OSError) as error:
                raise _unusable(error) from None

    try:
        asyncio.run(opened())
    except KeyboardInterrupt:
        raise Interrupted("interrupted; nothing was changed") from None


def _database_of(service: str, folder: DataFolder) -> tuple[str, TlsFiles]:
    settings = load(ServiceSettings)
    if os.environ.get(_DATABASE_URL):
        return settings.database_url, TlsFiles.of_database(settings)
    if folder.running() is None:
        raise BadSetting(_DATABASE_URL, None, f"is not set, and no `towpath dev` runs in {folder}")
    return folder.database_url(service), TlsFiles.of_database(settings)


def _unusable(error: BaseException) -> Trouble:
    said = str(error).splitlines()
    return Trouble(f"the database cannot be used: {said[0] if said else type(error).__name__}")


def _table(service: str) -> sa.Table:
    return effects_table(sa.MetaData(), service)


# The screen


def _print(service: str, rows: list[Row], count: int, *, as_json: bool) -> None:
    if as_json:
        for row in rows:
            print(json.dumps({"service": service, **_as_dict(row)}))  # noqa: T201  # a command speaks to a program
        return
    screen = console()
    if rows:
        table = Table(
            "state", "effect", "key", "attempts", "due, parked (UTC)", "error", box=None, pad_edge=False
        )
        for row in rows:
            named = map(plain, (row.state, row.effect, row.key, str(row.attempts)))
            table.add_row(*named, when(row.due_at), plain(row.error[:80]))
        screen.print(table)
    more = f", the first {len(rows)} shown" if count > len(rows) else ""
    screen.print(f"{service}: {count}{more}")


def _as_dict(row: Row) -> dict[str, Any]:
    return {
        "effect": row.effect,
        "key": row.key,
        "state": row.state,
        "attempts": row.attempts,
        "due_at": row.due_at,
        "created_at": row.created_at,
        "error": row.error,
        "is_called": row.is_called,
        "data": json.loads(row.data) if row.data else None,
    }
