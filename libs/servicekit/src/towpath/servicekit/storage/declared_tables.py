"""The tables that a service declares, and those that its migrations have made.

Guarantee: a service does not start if its code declares a table or a column that its database does not have; the text
names the migration to write. Other tables and columns are ignored, if a row does not need them.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.engine.reflection import ObjectKind

from towpath.servicekit.runtime.exit_status import ExitStatus
from towpath.servicekit.runtime.settings import CannotStart
from towpath.servicekit.storage.newer_schema import Ahead, check_unwritten, refusal

_NUMBERED = re.compile(r"(\d+)_\w*\.py")


class MissingMigration(CannotStart):
    """The database of a service lacks a table or a column that its code declares."""

    status = ExitStatus.BAD_SERVICE


def check_tables(
    connection: Connection,
    service: str,
    migrations: Path | None,
    metadata: sa.MetaData,
    ahead: Sequence[Ahead] = (),
) -> None:
    """Compare the tables of ``metadata`` with those of the database.

    Args:
        migrations: The service's folder of revisions; ``None`` if it has none.
        ahead: The histories that a newer release has continued.

    Raises:
        MissingMigration: The first table or column that is missing.
        NewerSchema: A newer release removed it, or needs a value in a column that is not declared here.
    """
    inspector = sa.inspect(connection)
    by_schema: dict[str | None, list[sa.Table]] = defaultdict(list)
    for table in metadata.sorted_tables:
        by_schema[table.schema].append(table)
    for schema, tables in by_schema.items():
        found = inspector.get_multi_columns(
            schema=schema, filter_names=[table.name for table in tables], kind=ObjectKind.ANY
        )
        for table in tables:
            existing = found.get((schema, table.name))
            names = None if existing is None else {column["name"] for column in existing}
            if names is None:
                what, step = f"the table {table.name}", f"op.create_table({table.name!r}, …)"
            elif lacking := [column for column in table.columns if column.name not in names]:
                what, step = f"the column {table.name}.{lacking[0].name}", _add_column(table, lacking[0])
            else:
                continue
            if ahead:
                raise refusal(ahead[0], f"without {what}")
            raise MissingMigration(
                f"the service {service!r} declares {what}, which its database does not have: "
                f"{_remedy(migrations, table.name, step)}"
            )
        if ahead:
            check_unwritten(ahead[0], tables, {name: columns for (_, name), columns in found.items()})


def _add_column(table: sa.Table, column: "sa.Column[object]") -> str:
    nullable = "" if column.nullable else ", nullable=False"
    return f"op.add_column({table.name!r}, sa.Column({column.name!r}, sa.{column.type!r}{nullable}))"


def _remedy(migrations: Path | None, table: str, step: str) -> str:
    if migrations is None:
        return f"name a folder in Storage(migrations=…), and write a migration in it with {step}"
    last, following = _numbers(sorted(path.name for path in migrations.glob("*.py")))
    after = f", down_revision = {last!r}," if last else ""
    return f"write the migration {migrations / f'{following}_{table}.py'}{after} with {step}"


def _numbers(names: Sequence[str]) -> tuple[str, str]:
    """The number of the last revision, by the names of files such as ``0001_tables.py``, and the next one."""
    found = [match[1] for name in names if (match := _NUMBERED.fullmatch(name))]
    last = max(found, key=int, default="")
    return last, f"{int(last or 0) + 1:0{len(last) or 4}}"
