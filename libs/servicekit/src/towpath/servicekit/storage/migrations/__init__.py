"""Migrations: a service brings those of its own tables, the kit those of the tables that every service has.

The kit owns :class:`~towpath.servicekit.storage.kit_tables.KitTables`: inbox, streams, outbox, group numbers. Their
history is in ``versions/`` beside this module. A service names a folder with Alembic revisions of its own tables, or
none. Both histories run at every start, in one transaction and under one lock of the database, so replicas that
start together migrate one after another, and a failed migration leaves nothing behind.

Why it is done this way:

* **Two version tables**, ``<service>_version`` and ``<service>_kit_version``, and not two branches in one table:
  Alembic refuses a version table with a revision that it does not know, so a service could not go back to a release
  from before the kit's migrations. And the histories depend on nothing in each other.
* **The service's history first, then the kit's.** Older services created the kit's tables in their own migrations
  (chat up to ``0009``, orders up to ``0003``). These bring an old database to the shape that the kit adopts. On a new
  database of these services they create the same tables.
* **The kit's first revision creates or adopts**: a table that exists stays as it is, with its rows.
* **Every service gets every table of the kit**, used or not. A service that gets groups or timers later then needs
  no migration, and the kit's history is a straight line without conditions.
* So a service's migration may not touch the kit's tables: on a new database they do not exist yet.
* **A history that a newer release has continued stays as it is**: replicas of two releases share a database during a
  rolling upgrade, see :mod:`towpath.servicekit.storage.newer_schema`.
"""

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from towpath.servicekit.storage.newer_schema import Ahead, find_ahead, store_mark

_HERE: Final = Path(__file__).parent


def migrate(connection: Connection, service: str, migrations: Path | None) -> list[Ahead]:
    """Bring all tables of ``service`` up to date, inside the transaction of ``connection``.

    Args:
        migrations: The folder with the service's own revisions, one Python file each; ``None`` if it has none.

    Returns:
        The histories that a newer release has continued: they are not touched.

    Raises:
        NewerSchema: A newer release says that this one cannot work on its schema.
        BadMark: A revision names a release that works on the schema, and there is none.
        CommandError: A table has the name of a kit table and another shape.
    """
    configurations = [] if migrations is None else [history(connection, service, migrations)]
    configurations.append(kit_history(connection, service))
    found = [_upgrade(connection, service, one) for one in configurations]
    return [ahead for ahead in found if ahead is not None]


def _upgrade(connection: Connection, service: str, configuration: Config) -> Ahead | None:
    version_table = configuration.attributes["version_table"]
    known = list(ScriptDirectory.from_config(configuration).walk_revisions())
    if (ahead := find_ahead(connection, service, version_table, known)) is not None:
        return ahead
    command.upgrade(configuration, "head")
    store_mark(connection, service, version_table, known)
    return None


def kit_version_table(service: str) -> str:
    """The name of the version table of the kit's tables; it has one row after the first :func:`migrate`."""
    return f"{service}_kit_version"


def history(connection: Connection, service: str, migrations: Path) -> Config:
    """Alembic's configuration for the revisions of a service's own tables."""
    return _configuration(connection, service, migrations, f"{service}_version")


def kit_history(connection: Connection, service: str) -> Config:
    """Alembic's configuration for the revisions of the kit's tables of a service."""
    return _configuration(connection, service, _HERE / "versions", kit_version_table(service))


def _configuration(connection: Connection, service: str, versions: Path, version_table: str) -> Config:
    # A Config without a file: nothing is read from the working directory. `env.py` is the kit's for all histories.
    config = Config(attributes={"connection": connection, "service": service, "version_table": version_table})
    # By default Alembic splits the list of folders at spaces and colons, which paths may contain:
    # https://alembic.sqlalchemy.org/en/latest/branches.html#setting-up-multiple-version-directories
    config.set_main_option("path_separator", "newline")
    for option, folder in (("script_location", _HERE), ("version_locations", versions)):
        # `%` begins an interpolation in such options:
        # https://docs.python.org/3/library/configparser.html#interpolation-of-values
        config.set_main_option(option, str(folder).replace("%", "%%"))
    return config
