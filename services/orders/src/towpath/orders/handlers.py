"""The handlers of orders: plain functions on the loaded unit of work, one per request and event."""

from functools import partial
from typing import Final

from towpath.orders.announcements import announced, cancelled
from towpath.orders.domain import Order
from towpath.orders.repository import OrderBook, state
from towpath.protocol.envelope import now_ms
from towpath.protocol.messages import Session
from towpath.protocol.orders import (
    CancelAnswer,
    CancelOrder,
    GetOrder,
    ListOrders,
    OrderAnswer,
    OrderEvent,
    OrderFound,
    OrderPage,
    OrderView,
    Status,
    SubmitOrder,
    stream_of,
)
from towpath.protocol.streams import Resume, ResumeAnswer
from towpath.servicekit import Handler, Handlers, Outcome, Push, resumed, to_user


def submit(request: SubmitOrder, session: Session, book: OrderBook) -> Outcome:
    order = Order.submitted(request, session.user_id, now_ms())
    book.add(order)  # raises OrderIdTaken
    answer = OrderAnswer(
        order_id=order.order_id,
        status=order.status,
        revision=order.revision,
        amount=request.total,
        currency=request.currency,
    )
    if order.items:
        # An order without items is not a matter of the inventory, and mostly stays as it is.
        order.repeat_at = order.created_at + book.repeat_ms
    created = announced("order.created", order, items=order.items)
    return Outcome(answer=answer, pushes=[_push(order, book)], events=[created])


def cancel(request: CancelOrder, session: Session, book: OrderBook) -> Outcome:
    order = book.owned_by(session.user_id, request.order_id)  # raises OrderNotFound
    order.cancel(request.reason, now_ms())  # raises NotCancellable, before any change
    order.repeat_at = order.updated_at + book.repeat_ms
    answer = CancelAnswer(order_id=order.order_id, status=order.status, revision=order.revision)
    return Outcome(answer=answer, pushes=[_push(order, book)], events=[cancelled(order)])


def get(request: GetOrder, session: Session, book: OrderBook) -> Outcome:
    order = book.owned_by(session.user_id, request.order_id)  # raises OrderNotFound
    return Outcome(answer=OrderFound(**_view(order).model_dump(), seq=book.position(session.user_id)))


def list_orders(request: ListOrders, session: Session, book: OrderBook) -> Outcome:
    orders, cursor = book.page(session.user_id, request)
    seq = book.position(session.user_id)
    return Outcome(answer=OrderPage(orders=[_view(order) for order in orders], seq=seq, cursor=cursor))


def resume(request: Resume, session: Session, _: OrderBook) -> Outcome:
    return resumed(request.positions, allowed={stream_of(session.user_id)})


def follow(status: Status, event: OrderEvent, book: OrderBook) -> Outcome:
    """Apply an event of another backend to an order."""
    order = book.get(event.user_id, event.order_id)
    if order is None:
        order = Order.born_elsewhere(event, status, book.source(event), now_ms())
        book.add(order)
    elif not order.follow(event, status, book.source(event), now_ms()):
        return Outcome()
    return Outcome(pushes=[_push(order, book)])


def _push(order: Order, book: OrderBook) -> Push:
    return to_user(order.user_id, book.updated(order))


def _view(order: Order) -> OrderView:
    return OrderView(**state(order).model_dump(), created_at=order.created_at, items=order.items)


COMMANDS: Final[Handlers] = {
    "order.submit": Handler(SubmitOrder, submit, answer=OrderAnswer),
    "order.cancel": Handler(CancelOrder, cancel, answer=CancelAnswer),
    "order.get": Handler(GetOrder, get, answer=OrderFound, changes=False),
    "order.list": Handler(ListOrders, list_orders, answer=OrderPage, changes=False, cost=20),
    "order.resume": Handler(Resume, resume, answer=ResumeAnswer, changes=False, cost=20),
}


def _subject(event: OrderEvent) -> str:
    # Distinguishes events whose sender is unknown (protocol.md, "RabbitMQ").
    return f"{event.user_id}/{event.order_id}"


EVENTS: Final[Handlers] = {
    "order.created": Handler(OrderEvent, partial(follow, Status.SUBMITTED), subject=_subject),
} | {
    f"order.{status.value}": Handler(OrderEvent, partial(follow, status), subject=_subject)
    for status in Status
    if status is not Status.SUBMITTED
}
