"""A schema that a newer release has changed, under this release: in a rolling upgrade, or on the way back from one.

Guarantee: a release works on a schema with revisions that it does not know, unless one of these holds, and then it
does not start, and names the reason:

* the newer release marked a revision with ``compatible_from``, and this one does not know the revision named there;
* a table or column that this release declares is missing;
* a table that this release declares has a column that needs a value, and this release does not write it.

The mark is a variable of the module of an Alembic revision. It names the oldest revision whose release works on the
schema from now on. It is stored in ``<service>_compatible_from``, since an older release does not have the module;
without a mark there is no such table.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.script import Script
from sqlalchemy import Connection

from towpath.servicekit.runtime.exit_status import ExitStatus
from towpath.servicekit.runtime.settings import BadSetting, CannotStart

_MARK: Final = "compatible_from"


class NewerSchema(BadSetting):
    """A newer release has changed the schema so that this release cannot work on it."""


class BadMark(CannotStart):
    """``compatible_from`` of a revision names no revision of its history up to itself."""

    status = ExitStatus.BAD_SERVICE


@dataclass(frozen=True, slots=True)
class Ahead:
    """A history that a newer release has continued.

    Attributes:
        version_table: The history.
        revision: That of the database.
        known: The last revision that this release has; ``None`` if it has none.
    """

    version_table: str
    revision: str
    known: str | None

    def __str__(self) -> str:
        return f"{self.version_table} {self.revision} (this release has {self.known or 'none'})"


def refusal(ahead: Ahead, reason: str) -> NewerSchema:
    """The error of a release that cannot work on the schema."""
    return NewerSchema(
        "TOWPATH_DATABASE_URL",
        None,
        f"holds a schema this version does not know, {ahead}, {reason}: start a newer release, or restore a "
        "backup of before the upgrade",
    )


def find_ahead(
    connection: Connection, service: str, version_table: str, known: Sequence[Script]
) -> Ahead | None:
    """The history, if the database is ahead of the revisions that this release knows.

    Args:
        known: The newest first.

    Raises:
        NewerSchema: A mark says that this release is too old.
    """
    context = MigrationContext.configure(connection, opts={"version_table": version_table})
    revision = context.get_current_revision()
    names = [script.revision for script in known]
    if revision is None or revision in names:
        return None
    ahead = Ahead(version_table, revision, names[0] if names else None)
    oldest = _stored_mark(connection, service, version_table)
    if oldest is not None and oldest not in names:
        raise refusal(ahead, f"which is for releases that have revision {oldest}")
    return ahead


def store_mark(connection: Connection, service: str, version_table: str, known: Sequence[Script]) -> None:
    """Store the newest mark of a history whose revisions have all run, for older releases.

    Args:
        known: The newest first.

    Raises:
        BadMark
    """
    found = [place for place, script in enumerate(known) if hasattr(script.module, _MARK)]
    if not found:
        return
    marked, oldest = known[found[0]], getattr(known[found[0]].module, _MARK)
    if oldest not in {script.revision for script in known[found[0] :]}:
        raise BadMark(
            f"{marked.path}: {_MARK} = {oldest!r} names no revision up to {marked.revision}; write the oldest one "
            "whose release works on this schema"
        )
    if _stored_mark(connection, service, version_table) == oldest:
        return
    table = _marks(service)
    table.create(connection, checkfirst=True)
    connection.execute(table.delete().where(table.c.version_table == version_table))
    connection.execute(table.insert().values(version_table=version_table, revision=oldest))


def marks_table(service: str) -> str:
    """The name of the table of marks; it exists only once a revision had one."""
    return f"{service}_{_MARK}"


def check_unwritten(
    ahead: Ahead, tables: Iterable[sa.Table], columns: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    """Refuse a column that needs a value and that this release does not know, so that its rows would be refused.

    Args:
        columns: Those that each of the tables has, as SQLAlchemy's inspector gives them.

    Raises:
        NewerSchema
    """
    for table in tables:
        for name in _needed(columns.get(table.name, ())):
            if name not in table.columns:
                reason = (
                    f"where the column {table.name}.{name} needs a value that this release does not write"
                )
                raise refusal(ahead, reason)


def _needed(columns: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The columns that an INSERT must name."""
    for column in columns:
        has_value = column.get("default") is not None or "identity" in column or "computed" in column
        if not column["nullable"] and not has_value:
            yield column["name"]


def _marks(service: str) -> sa.Table:
    return sa.Table(
        marks_table(service),
        sa.MetaData(),
        sa.Column("version_table", sa.String(255), primary_key=True),
        sa.Column("revision", sa.String(32), nullable=False),
    )


def _stored_mark(connection: Connection, service: str, version_table: str) -> str | None:
    table = _marks(service)
    if not sa.inspect(connection).has_table(table.name):
        return None
    row = connection.execute(sa.select(table.c.revision).where(table.c.version_table == version_table))
    return row.scalar_one_or_none()
