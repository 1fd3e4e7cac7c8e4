"""Orders and refunds as rows of their tables: amounts in minor units, with the decimals beside them."""

import json
from decimal import Decimal
from typing import Any, Final

from pydantic import TypeAdapter

from towpath.orders.domain import Order, Refund
from towpath.orders.price import Price
from towpath.protocol.money import decimals_in
from towpath.protocol.orders import Item, Status

_ITEMS: Final = TypeAdapter(list[Item])


def order_of(row: Any) -> Order:
    return Order(
        order_id=row.order_id,
        user_id=row.user_id,
        status=Status(row.status),
        revision=row.revision,
        price=Price(
            _decimal(row.amount, row.decimals),
            row.currency,
            row.decimals,
            _decimal(row.refunded, row.decimals),
            row.rest_is_refunded,
        ),
        refund_count=row.refund_count,
        items=_ITEMS.validate_python(json.loads(row.items)) if row.items else None,
        detail=json.loads(row.detail) if row.detail else None,
        is_creation_known=row.is_creation_known,
        created_at=row.created_at,
        listed_at=row.listed_at,
        updated_at=row.updated_at,
        repeat_at=row.repeat_at,
    )


def row_of(order: Order) -> dict[str, Any]:
    price = order.price
    return {
        "user_id": order.user_id,
        "order_id": order.order_id,
        "status": order.status.value,
        "revision": order.revision,
        "amount": _minor(price.amount, price.decimals),
        "currency": price.currency,
        "decimals": price.decimals,
        "refunded": _minor(price.refunded, price.decimals),
        "rest_is_refunded": price.rest_is_refunded,
        "refund_count": order.refund_count,
        "items": _ITEMS.dump_json(order.items).decode() if order.items else None,
        "detail": _json(order.detail),
        "is_creation_known": order.is_creation_known,
        "created_at": order.created_at,
        "listed_at": order.listed_at,
        "updated_at": order.updated_at,
        "repeat_at": order.repeat_at,
    }


def refund_row(order: Order, refund: Refund) -> dict[str, Any]:
    decimals = None if refund.amount is None else decimals_in(refund.amount)
    return {
        "user_id": order.user_id,
        "order_id": order.order_id,
        "number": refund.number,
        "amount": _minor(refund.amount, decimals),
        "decimals": decimals,
        "sender": refund.sender,
        "revision": refund.revision,
        "detail": _json(refund.detail),
        "refunded_at": refund.refunded_at,
    }


def rest_row(order: Order) -> dict[str, Any]:
    decimals = order.price.decimals
    return {
        "user_id": order.user_id,
        "order_id": order.order_id,
        "number": order.refund_count,
        "amount": _minor(order.resolved_rest, decimals),
        "decimals": decimals,
    }


def _json(detail: Any) -> str | None:
    return json.dumps(detail) if detail is not None else None


def _decimal(minor: int | None, decimals: int | None) -> Decimal | None:
    return None if minor is None or decimals is None else Decimal(minor).scaleb(-decimals)


def _minor(amount: Decimal | None, decimals: int | None) -> int | None:
    return None if amount is None or decimals is None else int(amount.scaleb(decimals))
