import { useSignal } from "@preact/signals";
import type { Status } from "@towpath/client";

import { textOf } from "../model/detail.ts";
import { type Moment, type Order, STEPS, isCancellable, withoutRepeats } from "../model/order-book.ts";
import { useApp, useLanguage, useSession, useWords } from "./context.ts";
import { Linked } from "./linked.tsx";

interface OrderListProps {
  /** Takes an order to the other backend, where there is one. */
  onPick: ((orderId: string) => void) | null;
}

/** The person's orders, newest first, with what happened to each. */
export function OrderList({ onPick }: OrderListProps) {
  const { orders } = useSession();
  const words = useWords().orders;
  const list = orders.book.value.orders;
  const moved = orders.moved.value;
  return (
    <>
      <ul class="order-list" data-testid="orders">
        {list.map((order, index) => (
          <OrderEntry key={order.order_id} order={order} isFirst={index === 0} onPick={onPick} />
        ))}
      </ul>
      {list.length === 0 && <p class="empty">{words.none}</p>}
      {orders.hasOlder.value && (
        <button type="button" class="quiet" data-testid="orders-more" onClick={() => void orders.loadOlder()}>
          {words.older}
        </button>
      )}
      <p class="unseen" role="status">
        {moved && words.changed(moved.order_id, words.statuses[moved.status] ?? moved.status)}
      </p>
    </>
  );
}

interface OrderEntryProps extends OrderListProps {
  order: Order;
  isFirst: boolean;
}

function OrderEntry({ order, isFirst, onPick }: OrderEntryProps) {
  const app = useApp();
  const { orders } = useSession();
  const { words, money, number } = useLanguage();
  const isCancelling = useSignal(false);
  const { order_id: id, status, amount, currency, refunded, detail, items } = order;
  const sum = (of: string) => (currency === undefined ? of : money(of, currency));
  const why = textOf(detail, words.orders.reasons);
  const cancel = async () => {
    isCancelling.value = true;
    await app.notices.attempt(`cancelling ${id}`, () => orders.cancel(order));
    isCancelling.value = false;
  };
  return (
    <li class="order" data-testid={`order-${id}`} data-status={status}>
      <div class="head">
        <strong class="id">{id}</strong>
        <span class="sum">{amount !== undefined && sum(amount)}</span>
        <span class="status" data-testid="order-status">
          {words.orders.statuses[status] ?? status}
        </span>
      </div>
      <Steps status={status} />
      {refunded !== undefined && (
        <p class="detail" data-testid="order-refunded">
          {words.orders.refunded(sum(refunded))}
        </p>
      )}
      {why !== "" && (
        <p class="detail" data-testid="order-detail">
          <Linked text={why} />
        </p>
      )}
      <details open={isFirst}>
        <summary>{words.orders.history}</summary>
        <Timeline moments={withoutRepeats(order.timeline)} sum={sum} />
        {items && items.length > 0 && (
          <ul class="bought" aria-label={words.orders.items}>
            {items.map((item, at) => (
              <li key={at}>
                {number(item.quantity)} × {item.sku}
                <span>{sum(item.unit_price)}</span>
              </li>
            ))}
          </ul>
        )}
      </details>
      <div class="foot">
        {onPick && (
          <button
            type="button"
            class="quiet"
            data-testid={`pick-${id}`}
            onClick={() => onPick(id)}
          >
            {words.orders.toBackend}
            <span class="unseen">{id}</span>
          </button>
        )}
        {isCancellable(order) && (
          <button
            type="button"
            class="quiet danger"
            data-testid={`cancel-${id}`}
            disabled={isCancelling.value}
            onClick={() => void cancel()}
          >
            {words.orders.cancel}
            <span class="unseen">{id}</span>
          </button>
        )}
      </div>
    </li>
  );
}

/** How far an order has come; one that left the usual way shows its last state by its name only. */
function Steps({ status }: { status: Status }) {
  const at = STEPS.indexOf(status);
  return (
    <div class="steps" aria-hidden="true">
      {STEPS.map((step, index) => (
        <span key={step} class={index <= at ? "done" : ""} />
      ))}
    </div>
  );
}

function Timeline({ moments, sum }: { moments: readonly Moment[]; sum: (amount: string) => string }) {
  const { words, moment: when } = useLanguage();
  return (
    <ol class="timeline" data-testid="timeline">
      {moments.map(({ revision, status, at, detail, refunded }) => {
        const why = textOf(detail, words.orders.reasons);
        return (
          <li key={revision} data-status={status ?? "created"}>
            <span class="state">
              {status === null ? words.orders.created : (words.orders.statuses[status] ?? status)}
            </span>
            {at !== undefined && <time datetime={new Date(at).toISOString()}>{when(at, Date.now())}</time>}
            {refunded !== undefined && <span class="why">{words.orders.refunded(sum(refunded))}</span>}
            {why !== "" && (
              <span class="why">
                <Linked text={why} />
              </span>
            )}
          </li>
        );
      })}
    </ol>
  );
}
