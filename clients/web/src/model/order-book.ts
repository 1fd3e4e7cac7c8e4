/**
 * The user's orders as this page knows them, newest first, each with the moments of its way. No I/O; never changed in
 * place: `take` and `takePage` give a new book.
 *
 * An order comes from answers, pushes and lists in any order; the highest `revision` wins, and every received state
 * heard of is a moment of its timeline.
 */
import type { CancelAnswer, OrderView, Status } from "@towpath/client";

/** An order in answers, pushes and lists: the answer to a cancel has the fewest fields, the list the most. */
export type OrderData = CancelAnswer & Partial<OrderView>;

/** One state of an order. `status` is null for "it was created", with an unknown state. */
export interface Moment {
  readonly revision: number;
  readonly status: Status | null;
  readonly at?: number;
  readonly detail?: unknown;
  readonly refunded?: string;
}

export interface Order extends Readonly<OrderData> {
  readonly timeline: readonly Moment[];
}

/** The way of an order that goes well. */
export const STEPS: readonly Status[] = ["submitted", "confirmed", "paid", "packed", "shipped", "delivered"];

const CANCELLABLE: ReadonlySet<Status> = new Set(["submitted", "confirmed", "paid", "packed"]);

export function isCancellable({ status }: { status: Status }): boolean {
  return CANCELLABLE.has(status);
}

export class OrderBook {
  /** Newest first. */
  readonly orders: readonly Order[];

  constructor(orders: readonly Order[] = []) {
    this.orders = orders;
  }

  /** Takes one order's state. An order that is new here goes to the top. */
  take(data: OrderData): OrderBook {
    const at = this.orders.findIndex((order) => order.order_id === data.order_id);
    if (at < 0) return new OrderBook([merged(undefined, data), ...this.orders]);
    return new OrderBook(this.orders.with(at, merged(this.orders[at], data)));
  }

  /** Takes a page of the list, newest first, which begins at the top or goes on at the bottom. */
  takePage(page: readonly OrderData[], { older }: { older: boolean }): OrderBook {
    const known = new Map(this.orders.map((order) => [order.order_id, order]));
    const listed = page.map((data) => merged(known.get(data.order_id), data));
    const ids = new Set(page.map((data) => data.order_id));
    const others = this.orders.filter((order) => !ids.has(order.order_id));
    const firstListed = this.orders.findIndex((order) => ids.has(order.order_id));
    // Orders above the list's first one were pushed while the list was in flight, or are newer than all of it.
    const above = older || firstListed < 0 ? others.length : firstListed;
    return new OrderBook([...others.slice(0, above), ...listed, ...others.slice(above)]);
  }
}

function merged(known: Order | undefined, data: OrderData): Order {
  const timeline = withMoments(known?.timeline ?? [], data);
  if (known === undefined) return { ...data, timeline };
  // An answer has fewer fields than a push; an older state still has the constant ones, such as the items.
  const [older, newer] = data.revision >= known.revision ? [known, data] : [data, known];
  return { ...older, ...withoutNothing(newer), detail: newer.detail ?? detailAt(timeline, newer.revision), timeline };
}

function withMoments(timeline: readonly Moment[], data: OrderData): readonly Moment[] {
  const moments = new Map(timeline.map((moment) => [moment.revision, moment]));
  const { revision, status, updated_at, detail, refunded, created_at } = data;
  const moment = withoutNothing({ revision, status, at: updated_at, detail, refunded });
  moments.set(revision, { ...moments.get(revision), ...moment });
  const isFirst = created_at === updated_at || revision <= 1;
  if (created_at !== undefined && !isFirst && !moments.has(0)) {
    moments.set(0, { revision: 0, status: null, at: created_at });
  }
  if (moments.has(1)) moments.delete(0);
  return [...moments.values()].sort((one, other) => one.revision - other.revision);
}

/**
 * The moments with a difference: an order changes without a new state, too, as when its amount becomes known.
 */
export function withoutRepeats(timeline: readonly Moment[]): readonly Moment[] {
  const said = ({ status, detail, refunded }: Moment) => JSON.stringify([status, detail, refunded]);
  return timeline.filter((moment, at) => at === 0 || said(moment) !== said(timeline[at - 1]!));
}

function detailAt(timeline: readonly Moment[], revision: number): unknown {
  return timeline.find((moment) => moment.revision === revision)?.detail;
}

/** Without the fields that say nothing, so that they do not hide what was known. */
function withoutNothing<Fields extends object>(fields: Fields): Fields {
  const said = Object.entries(fields).filter(([, value]) => value !== undefined && value !== null);
  return Object.fromEntries(said) as Fields;
}
