"""The SQL of the outbox, ``outbox.sql``: its text for any schema, its statements, and its limits."""

from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Final

#: As ``outbox.sql`` checks them.
DATA_MAX_BYTES: Final = 1024 * 1024
AGGREGATE_MAX_BYTES: Final = 255

TABLE: Final = "towpath_outbox"
CHANNEL: Final = "towpath_outbox"
PUBLIC: Final = "public"

_FUNCTION: Final = "towpath_publish(text, jsonb, text, text)"


def outbox_sql(schema: str = PUBLIC, *, publishers: Iterable[str] = (), relays: Iterable[str] = ()) -> str:
    """The text of ``outbox.sql``, followed by the rights of other users.

    Args:
        schema: Where the table and the function are.
        publishers: Users that may call ``towpath_publish``, and nothing else.
        relays: Users that may read, park and delete what is in the table, and not insert.
    """
    text = files(__package__).joinpath("outbox.sql").read_text(encoding="utf-8")
    where = quoted(schema)
    rights = []
    for user in publishers:
        rights.append(f"GRANT USAGE ON SCHEMA public TO {quoted(user)};")
        rights.append(f"GRANT EXECUTE ON FUNCTION public.{_FUNCTION} TO {quoted(user)};")
    for user in relays:
        rights.append(f"GRANT USAGE ON SCHEMA public TO {quoted(user)};")
        rights.append(
            f"GRANT SELECT, DELETE, UPDATE (parked_at, reason) ON public.{TABLE} TO {quoted(user)};"
        )
    granted = "\n\n".join(["", *rights]) if rights else ""
    whole = text.rstrip() + granted + "\n"
    return whole.replace("SCHEMA public", f"SCHEMA {where}").replace("public.", f"{where}.")


def outbox_statements(
    schema: str = PUBLIC, *, publishers: Iterable[str] = (), relays: Iterable[str] = ()
) -> Sequence[str]:
    """The same, one statement each, for drivers that take one at a time, and for Alembic's ``op.execute``."""
    # A statement ends with an empty line; the body of the function has none.
    text = outbox_sql(schema, publishers=publishers, relays=relays)
    return [part.strip().rstrip(";") for part in text.split(";\n\n") if part.strip()]


def quoted(name: str) -> str:
    """An identifier of PostgreSQL.

    Raises:
        ValueError: It cannot be one.
    """
    if not name or "\0" in name:
        raise ValueError(f"{name!r} is not the name of a schema or user")
    return '"' + name.replace('"', '""') + '"'


def missing(schema: str = PUBLIC) -> str:
    """The error of a database without the outbox, with the remedy."""
    return (
        f"the outbox is missing: this database has no {schema}.{TABLE} with the function towpath_publish. "
        "Run `towpath-relay install` with TOWPATH_DATABASE_URL (or the SQL that `towpath-relay sql` prints), "
        "or name the schema in TOWPATH_OUTBOX_SCHEMA"
    )
