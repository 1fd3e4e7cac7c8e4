"""The handlers of the inventory: plain functions on the loaded unit of work, one per request and event."""

from typing import Final

from towpath.inventory.domain import Decided, NotAllowedToSet, Stock, may_set, quantities_of
from towpath.inventory.repository import Inventory, state_of
from towpath.protocol.envelope import make
from towpath.protocol.inventory import (
    WRITE_SCOPE,
    GetStock,
    ListStock,
    OrderConfirmed,
    OrderCreated,
    OrderMoved,
    OrderRejected,
    SetStock,
    StockPage,
    StockView,
    Unwatched,
    UnwatchStock,
    WatchStock,
    stream_of,
)
from towpath.protocol.messages import Session
from towpath.protocol.routes import SESSION_STARTED
from towpath.protocol.sessions import SessionStarted
from towpath.protocol.streams import Resume, ResumeAnswer
from towpath.servicekit import Handler, Handlers, Outcome, Push, resumed, to_group

# Requests


def get(request: GetStock, _: Session, inventory: Inventory) -> Outcome:
    return Outcome(answer=_view(inventory.item(request.sku)))  # raises ItemNotFound


def list_stock(request: ListStock, _: Session, inventory: Inventory) -> Outcome:
    stocks, cursor = inventory.page(request)
    return Outcome(answer=StockPage(items=[_view(stock) for stock in stocks], cursor=cursor))


def set_stock(request: SetStock, session: Session, inventory: Inventory) -> Outcome:
    if not may_set(session.scope):
        raise NotAllowedToSet(f"Setting stock needs a token whose scope has the word {WRITE_SCOPE!r}.")
    stock = inventory.item_to_set(request.sku)
    is_change = stock.set(request.on_hand)  # raises FewerThanReserved, before any change
    pushes = [_push(stock, inventory)] if is_change else []
    return Outcome(answer=_view(stock), pushes=pushes)


def watch(request: WatchStock, session: Session, inventory: Inventory) -> Outcome:
    stock = inventory.item(request.sku)  # raises ItemNotFound
    inventory.watches.add(session.user_id, stock.sku)  # raises TooManyWatches
    stream = stream_of(stock.sku)
    # Pushes between the commit and the subscription are replayed.
    return Outcome(answer=_view(stock), subscribe=[stream], replay={stream: stock.revision})


def unwatch(request: UnwatchStock, session: Session, inventory: Inventory) -> Outcome:
    inventory.watches.remove(session.user_id, request.sku)
    return Outcome(answer=Unwatched(sku=request.sku), unsubscribe=[stream_of(request.sku)])


def resume(request: Resume, session: Session, inventory: Inventory) -> Outcome:
    streams = inventory.watches.streams(session.user_id)
    return resumed(request.positions, allowed=set(streams), groups=streams)


# Events


def on_session_started(event: SessionStarted, inventory: Inventory) -> Outcome:
    """Subscribe a new connection to the items that its user watches."""
    session = Session(event.user_id, event.connection_id, event.gateway_id, inbox=event.inbox)
    return Outcome(connection=session, groups=inventory.watches.streams(event.user_id))


def on_order_created(event: OrderCreated, inventory: Inventory) -> Outcome:
    """Reserve all tracked items of an order, or reject it."""
    # An order without items is not a matter of the inventory, and leaves no row.
    if not event.items:
        return Outcome()
    reservation = inventory.reservation(event.user_id, event.order_id)
    decided = reservation.reserve(
        quantities_of(event.items), inventory.stocks, untracked=inventory.rules.untracked
    )
    return _outcome(decided, event, inventory)


def on_order_undecided(event: OrderCreated, inventory: Inventory) -> Outcome:
    """Repeat the decision about an order, or make it: a queue was missing when it was created or decided."""
    if not event.items:
        return Outcome()
    reservation = inventory.reservation(event.user_id, event.order_id)
    decided = reservation.decide_again(
        quantities_of(event.items), inventory.stocks, untracked=inventory.rules.untracked
    )
    return _outcome(decided, event, inventory)


def on_order_ended(event: OrderMoved, inventory: Inventory) -> Outcome:
    """Release what is reserved for an order that was cancelled or rejected."""
    reservation = inventory.reservation(event.user_id, event.order_id)
    return _outcome(reservation.release(inventory.stocks), event, inventory)


def on_order_shipped(event: OrderMoved, inventory: Inventory) -> Outcome:
    """Take what is reserved for an order out of the stock for good."""
    reservation = inventory.reservation(event.user_id, event.order_id)
    return _outcome(reservation.ship(inventory.stocks), event, inventory)


def _outcome(decided: Decided, event: OrderCreated | OrderMoved, inventory: Inventory) -> Outcome:
    whose = {"order_id": event.order_id, "user_id": event.user_id}
    events = []
    if decided.is_confirmed:
        events.append(make("order.confirmed", OrderConfirmed(**whose).model_dump()))
    if (why := decided.rejection) is not None:
        rejected = OrderRejected(**whose, reason=why.reason, detail=why)
        events.append(make("order.rejected", rejected.model_dump()))
    return Outcome(pushes=[_push(stock, inventory) for stock in decided.changed], events=events)


def _push(stock: Stock, inventory: Inventory) -> Push:
    return to_group(stream_of(stock.sku), inventory.updated(stock))


def _view(stock: Stock) -> StockView:
    return StockView(**state_of(stock).model_dump(), seq=stock.revision)


COMMANDS: Final[Handlers] = {
    "inventory.get": Handler(GetStock, get, answer=StockView, changes=False),
    "inventory.list": Handler(ListStock, list_stock, answer=StockPage, changes=False, cost=20),
    "inventory.set": Handler(SetStock, set_stock, answer=StockView),
    "inventory.watch": Handler(WatchStock, watch, answer=StockView, cost=4),
    "inventory.unwatch": Handler(UnwatchStock, unwatch, answer=Unwatched, cost=4),
    "inventory.resume": Handler(Resume, resume, answer=ResumeAnswer, changes=False, cost=20, groups=True),
}


def _subject(event: OrderCreated | OrderMoved) -> str:
    # Distinguishes events whose sender is unknown (protocol.md, "RabbitMQ").
    return f"{event.user_id}/{event.order_id}"


EVENTS: Final[Handlers] = {
    SESSION_STARTED: Handler(SessionStarted, on_session_started, changes=False, groups=True),
    "order.created": Handler(OrderCreated, on_order_created, subject=_subject),
    "order.undecided": Handler(OrderCreated, on_order_undecided, subject=_subject),
    "order.cancelled": Handler(OrderMoved, on_order_ended, subject=_subject),
    "order.rejected": Handler(OrderMoved, on_order_ended, subject=_subject),
    "order.shipped": Handler(OrderMoved, on_order_shipped, subject=_subject),
    "order.delivered": Handler(OrderMoved, on_order_shipped, subject=_subject),
}
