"""Orders by owner and id, money by ISO 4217, refunds, and the newest revision of each sender.

Every order is kept, and shows the same amount as before:

* Until now all amounts were hundredths. Each becomes minor units of its currency: 50000 for ``500.00 JPY`` becomes 500,
  and 1230 for ``12.30 KWD`` becomes 12300. Where that is impossible (``99.90 JPY``, ``10.00 ZZZ``) the order keeps two
  decimals of its own.
* An order that was refunded counts as refunded in full: what it cost at first was overwritten by the refund.
* The newest revision is stored under the sender ``""``, as its sender is unknown. Nothing reads it.

The orders are copied in steps, so that memory and the time of a statement do not grow with their number.
"""

import json
from decimal import Decimal
from time import monotonic
from typing import Any

import sqlalchemy as sa
import structlog
from alembic import op

from towpath.protocol.money import TooManyDecimals, decimals_of, is_currency, written_with

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

log = structlog.get_logger(__name__)

STEP = 2_000
PROGRESS_SECONDS = 2.0

BEFORE = sa.table(
    "orders_before",
    *(sa.column(name) for name in ("order_id", "user_id", "status", "revision", "seen_revision", "cents", "currency")),
    *(sa.column(name) for name in ("items", "detail", "created_at", "updated_at")),
)


def upgrade() -> None:
    op.drop_index("ix_orders_user", "orders")
    op.rename_table("orders", "orders_before")
    orders = op.create_table(
        "orders",
        sa.Column("user_id", sa.String(256), nullable=False),
        sa.Column("order_id", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("amount", sa.BigInteger),
        sa.Column("currency", sa.String(3)),
        sa.Column("decimals", sa.SmallInteger),
        sa.Column("refunded", sa.BigInteger),
        sa.Column("rest_is_refunded", sa.Boolean, nullable=False),
        sa.Column("refund_count", sa.Integer, nullable=False),
        sa.Column("items", sa.Text),
        sa.Column("detail", sa.Text),
        sa.Column("is_creation_known", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("listed_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        # PostgreSQL's own name for it is still taken by the table of before.
        sa.PrimaryKeyConstraint("user_id", "order_id", name="orders_by_owner_and_id"),
    )
    op.create_index("ix_orders_listed", "orders", ["user_id", "listed_at", "order_id"])
    refunds = op.create_table(
        "orders_refunds",
        sa.Column("user_id", sa.String(256), primary_key=True),
        sa.Column("order_id", sa.String(64), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("amount", sa.BigInteger),
        sa.Column("decimals", sa.SmallInteger),
        sa.Column("sender", sa.String(300), nullable=False),
        sa.Column("revision", sa.BigInteger),
        sa.Column("detail", sa.Text),
        sa.Column("refunded_at", sa.BigInteger, nullable=False),
    )
    revisions = op.create_table(
        "orders_revisions",
        sa.Column("user_id", sa.String(256), primary_key=True),
        sa.Column("order_id", sa.String(64), primary_key=True),
        sa.Column("sender", sa.String(300), primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
    copy(op.get_bind(), orders, refunds, revisions)
    op.drop_table("orders_before")


def copy(connection: sa.Connection, orders: sa.Table, refunds: sa.Table, revisions: sa.Table) -> None:
    """Copy all orders of before, and say from time to time how far it is."""
    total = connection.execute(sa.select(sa.func.count()).select_from(BEFORE)).scalar_one()
    done, last, logged_at = 0, "", monotonic()
    while True:
        page = sa.select(BEFORE).where(BEFORE.c.order_id > last).order_by(BEFORE.c.order_id).limit(STEP)
        rows = connection.execute(page).all()
        if not rows:
            break
        made = [converted(row) for row in rows]
        insert(connection, orders, made)
        insert(connection, refunds, [refund_of(order) for order in made if order["refund_count"]])
        insert(
            connection,
            revisions,
            [
                {"user_id": row.user_id, "order_id": row.order_id, "sender": "", "revision": row.seen_revision}
                for row in rows
                if row.seen_revision
            ],
        )
        done, last = done + len(rows), rows[-1].order_id
        if done == total or monotonic() - logged_at >= PROGRESS_SECONDS:
            log.info("migrating_orders", done=done, total=total)
            logged_at = monotonic()


def insert(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(table.insert(), rows)


def converted(row: sa.Row[Any]) -> dict[str, Any]:
    """An order of before as a row of now."""
    amount = Decimal(row.cents).scaleb(-2)
    decimals = decimals_of(row.currency) if is_currency(row.currency) else 2
    try:
        amount = written_with(amount, decimals)
    except TooManyDecimals:
        decimals = 2
    minor = int(amount.scaleb(decimals))
    is_refunded = row.status == "refunded"
    return {
        "user_id": row.user_id,
        "order_id": row.order_id,
        "status": row.status,
        "revision": row.revision,
        "amount": minor,
        "currency": row.currency,
        "decimals": decimals,
        "refunded": minor if is_refunded else None,
        "rest_is_refunded": False,
        "refund_count": int(is_refunded),
        "items": items_with(row.items, decimals),
        "detail": row.detail,
        "is_creation_known": True,
        "created_at": row.created_at,
        "listed_at": row.created_at,
        "updated_at": row.updated_at,
    }


def items_with(items: str | None, decimals: int) -> str | None:
    """The items with their prices in the order's decimals; as they are where a price has more of them."""
    if not items or decimals == 2:
        return items
    try:
        priced = [
            item | {"unit_price": str(written_with(Decimal(item["unit_price"]), decimals))}
            for item in json.loads(items)
        ]
    except TooManyDecimals:
        return items
    return json.dumps(priced)


def refund_of(order: dict[str, Any]) -> dict[str, Any]:
    return {
        "user_id": order["user_id"],
        "order_id": order["order_id"],
        "number": 1,
        "amount": order["refunded"],
        "decimals": order["decimals"],
        "sender": "",
        "revision": None,
        "detail": order["detail"],
        "refunded_at": order["updated_at"],
    }


def downgrade() -> None:
    raise NotImplementedError(
        "Two users may have the same order id by now, which the schema of before cannot hold: "
        "restore the copy of the database that was made before the upgrade."
    )
