"""Payloads of orders: money is exact, items and amount agree."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from towpath.protocol.envelope import make, parse
from towpath.protocol.messages import read_object
from towpath.protocol.money import MAX_AMOUNT, format_money
from towpath.protocol.orders import (
    CancelOrder,
    GetOrder,
    Item,
    ListOrders,
    OrderAnswer,
    OrderEvent,
    OrderPage,
    OrderView,
    Status,
    SubmitOrder,
    stream_of,
)

amounts = st.decimals(0, MAX_AMOUNT, places=2)
items = st.fixed_dictionaries(
    {
        "sku": st.text(st.characters(min_codepoint=33), min_size=1, max_size=8),
        "quantity": st.integers(1, 1_000),
        "unit_price": st.decimals(0, 10_000, places=2),
    }
)


def problems(model: type[BaseModel], data: dict[str, Any]) -> list[str]:
    """The fields that ``model`` refuses; none when it takes ``data``."""
    try:
        model.model_validate(data)
    except ValidationError as error:
        return [".".join(map(str, found["loc"])) or "(whole)" for found in error.errors()]
    return []


# Money


@given(amounts)
def test_money_is_read_from_numbers_and_strings_and_written_with_two_decimals(amount: Decimal) -> None:
    for written in (f"{amount}", f'"{amount}"'):
        order = SubmitOrder.model_validate(read_object(f'{{"amount":{written}}}'.encode()))
        assert order.total == amount
        answer = OrderAnswer(
            order_id="O1", status=Status.SUBMITTED, revision=1, amount=order.total, currency="USD"
        )
        assert answer.model_dump(mode="json")["amount"] == f"{amount:.2f}"


@given(st.floats())
def test_money_is_never_a_binary_float(amount: float) -> None:
    assert problems(SubmitOrder, {"amount": amount}) == ["amount"]


@given(st.text(max_size=12) | st.from_regex(r"[-+]?[0-9_ ]*\.?[0-9]*(e[-+]?[0-9]+)?", fullmatch=True))
def test_a_text_is_an_exact_amount_or_refused(text: str) -> None:
    if not problems(SubmitOrder, {"amount": text}):
        total = SubmitOrder(amount=text).total  # type: ignore[arg-type]  # as it comes from outside
        assert total == Decimal(text)
        assert set(format_money(total)) <= set("0123456789.")


@pytest.mark.parametrize(
    ("written", "total"),
    [
        ("99.9", "99.90"),
        ("99.90", "99.90"),
        ('"99.90"', "99.90"),
        ('"99.900"', "99.90"),
        ("7", "7.00"),
        ('"7"', "7.00"),
        ("1e2", "100.00"),
        ("0", "0.00"),
        ("-0.0", "0.00"),
        ("9999999999999.99", "9999999999999.99"),
    ],
)
def test_money_is_written_in_many_ways(written: str, total: str) -> None:
    order = SubmitOrder.model_validate(read_object(f'{{"amount":{written}}}'.encode()))
    assert format_money(order.total) == total


@pytest.mark.parametrize(
    "written",
    [
        "0.001",
        "-1",
        "-0.01",
        "10000000000000",
        "1e999999999",
        "1e99999999999999999999",
        "1e-99999999999999999999",
        '"1e99999999999999999999"',
        "1e-9",
        "true",
        "null",
        "[]",
        "{}",
        *(
            f'"{text}"'
            for text in ("", "abc", "NaN", "sNaN", "Infinity", "1_0", " 5 ", "5,00", "$5", "٥", "0x10")
        ),
    ],
)
def test_an_invalid_amount_is_refused(written: str) -> None:
    data = read_object(f'{{"amount":{written}}}'.encode())
    assert problems(SubmitOrder, data) == (["(whole)"] if written == "null" else ["amount"])


def test_a_sum_is_exact_where_binary_floats_are_not() -> None:
    ten_cents = {"sku": "tea", "quantity": 1, "unit_price": Decimal("0.10")}
    assert SubmitOrder.model_validate({"items": [ten_cents] * 3, "amount": Decimal("0.30")}).total == Decimal(
        "0.30"
    )


# Items


@given(st.lists(items, min_size=1, max_size=5), st.decimals(0, 100, places=2))
def test_items_and_amount_agree_or_the_order_is_refused(lines: list[dict[str, Any]], more: Decimal) -> None:
    total = sum((line["quantity"] * line["unit_price"] for line in lines), Decimal(0))
    assert SubmitOrder.model_validate({"items": lines}).total == total
    assert SubmitOrder.model_validate({"items": lines, "amount": total}).total == total
    assert bool(problems(SubmitOrder, {"items": lines, "amount": total + more})) == bool(more)


def test_without_items_and_amount_there_is_nothing_to_order() -> None:
    assert problems(SubmitOrder, {}) == ["(whole)"]
    assert problems(SubmitOrder, {"items": []}) == ["items"]


def test_items_may_not_come_to_more_than_an_amount_can_be() -> None:
    dear = {"sku": "ship", "quantity": 1, "unit_price": MAX_AMOUNT}
    assert not problems(SubmitOrder, {"items": [dear]})
    assert problems(SubmitOrder, {"items": [dear, dear]}) == ["(whole)"]
    assert problems(SubmitOrder, {"items": [{**dear, "quantity": 1_000_000}] * 200}) == ["(whole)"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("sku", value) for value in ("", "x" * 65, "a\x00", 5, None)),
        *(("quantity", value) for value in (0, -1, 1_000_001, "1", Decimal("1.0"), True, None)),
        *(("unit_price", value) for value in (1.5, "-1", "0.001", None)),
    ],
)
def test_an_invalid_item_is_named_with_its_position(field: str, value: object) -> None:
    good = {"sku": "tea", "quantity": 2, "unit_price": "4.50"}
    assert problems(SubmitOrder, {"items": [good, {**good, field: value}]}) == [f"items.1.{field}"]


def test_an_order_has_two_hundred_items_at_most() -> None:
    item = {"sku": "tea", "quantity": 1, "unit_price": "1.00"}
    assert not problems(SubmitOrder, {"items": [item] * 200})
    assert problems(SubmitOrder, {"items": [item] * 201}) == ["items"]


# The rest


@pytest.mark.parametrize("currency", ["usd", "USDX", "US", "US\n", "", 840])
def test_a_currency_is_three_capital_letters(currency: object) -> None:
    assert problems(SubmitOrder, {"amount": "1", "currency": currency}) == ["currency"]
    assert SubmitOrder.model_validate({"amount": "1", "currency": "EUR"}).currency == "EUR"


@pytest.mark.parametrize("order_id", ["", "a b", "x" * 65, "O1\n", 5, None])
def test_an_order_id_is_an_id(order_id: object) -> None:
    assert problems(GetOrder, {"order_id": order_id}) == ["order_id"]


@pytest.mark.parametrize("reason", ["x" * 501, "a\x00", 5])
def test_a_reason_is_a_text_of_some_length(reason: object) -> None:
    assert problems(CancelOrder, {"order_id": "O1", "reason": reason}) == ["reason"]


@pytest.mark.parametrize(
    ("cursor", "refused"),
    [("1712048400000~O1", False), ("O1", True), ("1~", True), ("1~a b", True), (1, True)],
)
def test_a_cursor_comes_from_an_earlier_answer(cursor: object, refused: bool) -> None:
    assert bool(problems(ListOrders, {"cursor": cursor})) is refused


@pytest.mark.parametrize(
    ("limit", "refused"), [(1, False), (200, False), (0, True), (201, True), ("5", True)]
)
def test_a_page_has_bounds(limit: object, refused: bool) -> None:
    assert bool(problems(ListOrders, {"limit": limit})) is refused


@pytest.mark.parametrize("field", ["revision", "amount", "currency"])
def test_an_event_of_another_backend_may_leave_out_known_fields(field: str) -> None:
    event = {"order_id": "O1", "user_id": "ana", "revision": 2, "amount": "5.00", "currency": "EUR"}
    assert not problems(OrderEvent, {name: value for name, value in event.items() if name != field})


@pytest.mark.parametrize("revision", [0, 2**31, "2", True])
def test_a_revision_counts_from_one(revision: object) -> None:
    assert problems(OrderEvent, {"order_id": "O1", "user_id": "ana", "revision": revision}) == ["revision"]


@pytest.mark.parametrize(
    "detail", ["null", "true", '"late"', '{"carrier":"UPS","weight":[1.5,2e3,-7]}', "12345678901234567890123"]
)
def test_the_detail_of_an_event_is_passed_on_unchanged(detail: str) -> None:
    event = OrderEvent.model_validate(
        read_object(f'{{"order_id":"O1","user_id":"ana","detail":{detail}}}'.encode())
    )
    passed = make("order.updated", event.model_dump(mode="json")).to_json()
    assert read_object(passed)["data"]["detail"] == read_object(f'{{"x":{detail}}}'.encode())["x"]


@pytest.mark.parametrize(("depth", "refused"), [(100, False), (101, True), (500, True), (900, True)])
@pytest.mark.parametrize(("opening", "closing"), [('{"x":', "}"), ("[", "]")])
def test_a_detail_has_a_depth_that_a_gateway_can_read(
    depth: int, refused: bool, opening: str, closing: str
) -> None:
    data = read_object(
        f'{{"order_id":"O1","user_id":"ana","detail":{opening * depth}1.5{closing * depth}}}'.encode()
    )
    assert problems(OrderEvent, data) == (["detail"] if refused else [])
    if not refused:
        parse(make("order.updated", OrderEvent.model_validate(data).model_dump(mode="json")).to_json())


def test_an_order_is_shown_with_its_items() -> None:
    order = OrderView(
        order_id="O1",
        status=Status.PAID,
        revision=3,
        amount=Decimal("9.00"),
        currency="USD",
        updated_at=2,
        created_at=1,
        items=[Item(sku="tea", quantity=2, unit_price=Decimal("4.50"))],
    )
    shown = OrderPage(orders=[order], seq=7).model_dump(mode="json", exclude_none=True)
    assert shown == {
        "orders": [
            {
                "order_id": "O1",
                "status": "paid",
                "revision": 3,
                "amount": "9.00",
                "currency": "USD",
                "updated_at": 2,
                "created_at": 1,
                "items": [{"sku": "tea", "quantity": 2, "unit_price": "4.50"}],
            }
        ],
        "seq": 7,
    }


def test_a_user_has_one_stream_of_orders() -> None:
    assert stream_of("ana") == "order:ana"
