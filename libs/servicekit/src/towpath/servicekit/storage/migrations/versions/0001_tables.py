"""The kit's tables: creates those that are missing, and adopts those that a service's own migrations created."""

import sqlalchemy as sa
from alembic import context, op
from alembic.util.exc import CommandError

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def tables(service: str) -> list[sa.Table]:
    """The shapes at this revision. They stay as they are here, whatever the kit declares later."""
    metadata = sa.MetaData()
    return [
        sa.Table(
            f"{service}_inbox",
            metadata,
            sa.Column("sender", sa.String(300), primary_key=True),
            sa.Column("msg_id", sa.String(64), primary_key=True),
            sa.Column("outcome", sa.Text, nullable=False),
            sa.Column("created_at", sa.BigInteger, nullable=False, index=True),
        ),
        sa.Table(
            f"{service}_streams",
            metadata,
            sa.Column("stream", sa.String(512), primary_key=True),
            sa.Column("head", sa.BigInteger, nullable=False),
            sa.Column("leaves", sa.Text),
        ),
        sa.Table(
            f"{service}_stream_entries",
            metadata,
            sa.Column("stream", sa.String(512), primary_key=True),
            sa.Column("seq", sa.BigInteger, primary_key=True),
            sa.Column("envelope", sa.Text, nullable=False),
            sa.Column("created_at", sa.BigInteger, nullable=False, index=True),
        ),
        sa.Table(
            f"{service}_outbox",
            metadata,
            sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
            sa.Column("exchange", sa.String(255), nullable=False),
            sa.Column("routing_key", sa.String(255), nullable=False),
            sa.Column("item", sa.Text, nullable=False),
            sa.Column("created_at", sa.BigInteger, nullable=False),
            sqlite_autoincrement=True,
        ),
        sa.Table(
            f"{service}_outbox_lease",
            metadata,
            sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
            sa.Column("holder", sa.String(64), nullable=False),
            sa.Column("held_until", sa.BigInteger, nullable=False),
        ),
        sa.Table(
            f"{service}_group_numbers",
            metadata,
            sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
            sa.Column("number", sa.BigInteger, nullable=False),
        ),
    ]


def upgrade() -> None:
    service = context.config.attributes["service"]
    connection = op.get_bind()
    existing = set(sa.inspect(connection).get_table_names())
    for table in tables(service):
        if table.name in existing:
            adopt(connection, table)
            continue
        table.create(connection)
        if table.name.endswith("_group_numbers"):
            # 0 means that a service does not number its membership changes.
            op.bulk_insert(table, [{"id": 1, "number": 1}])


def adopt(connection: sa.Connection, table: sa.Table) -> None:
    """Keep a table with its rows, and add ``leaves``, which streams had only in services with groups.

    Raises:
        CommandError: The table is not the kit's.
    """
    existing = {column["name"] for column in sa.inspect(connection).get_columns(table.name)}
    missing = set(table.c.keys()) - existing
    if missing == {"leaves"}:
        op.add_column(table.name, sa.Column("leaves", sa.Text))
    elif missing:
        raise CommandError(
            f"the table {table.name} has no column {', '.join(sorted(missing))}; tables of this name belong to "
            f"towpath.servicekit: give yours another name"
        )


def downgrade() -> None:
    """The tables stay: a service's own migrations may have created them."""
