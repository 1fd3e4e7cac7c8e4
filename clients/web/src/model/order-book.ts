/**
 * The user's orders as this page knows them, newest first, each with the moments of its way. No I/O; never changed in
 * place: each function gives a new book.
 *
 * The list begins with a state and goes on with later changes; the answer to a request may be ahead of it, so the
 * highest `revision` wins. The list has the last state of each order: the earlier ones come from the stream, in any
 * order, and are kept of orders that are not listed yet, too.
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

type Timelines = ReadonlyMap<string, readonly Moment[]>;

/** The way of an order that goes well. */
export const STEPS: readonly Status[] = ["submitted", "confirmed", "paid", "packed", "shipped", "delivered"];

const CANCELLABLE: ReadonlySet<Status> = new Set(["submitted", "confirmed", "paid", "packed"]);

export function isCancellable({ status }: { status: Status }): boolean {
  return CANCELLABLE.has(status);
}

export class OrderBook {
  /** Newest first. */
  readonly orders: readonly Order[];
  readonly #timelines: Timelines;

  constructor(orders: readonly Order[] = [], timelines: Timelines = new Map()) {
    this.orders = orders;
    this.#timelines = timelines;
  }

  /** Takes the newest page, in place of what is listed. */
  list(page: readonly OrderData[]): OrderBook {
    const timelines = this.#timelinesWith(page);
    return new OrderBook(this.#merged(page, timelines), timelines);
  }

  /** Takes the page that follows the last order. */
  extend(page: readonly OrderData[]): OrderBook {
    const timelines = this.#timelinesWith(page);
    const ids = new Set(page.map(({ order_id }) => order_id));
    const others = this.orders.filter(({ order_id }) => !ids.has(order_id));
    return new OrderBook([...others, ...this.#merged(page, timelines)], timelines);
  }

  /** Takes one order's state. An order that is new here goes to the top. */
  take(data: OrderData): OrderBook {
    const timelines = this.#timelinesWith([data]);
    const at = this.orders.findIndex(({ order_id }) => order_id === data.order_id);
    const order = merged(this.orders[at], data, timelines);
    return new OrderBook(at < 0 ? [order, ...this.orders] : this.orders.with(at, order), timelines);
  }

  /** Notes a state that an order went through. The list stays as it is. */
  recall(data: OrderData): OrderBook {
    const timelines = this.#timelinesWith([data]);
    const orders = this.orders.map((order) =>
      order.order_id === data.order_id ? { ...order, timeline: timelines.get(order.order_id)! } : order,
    );
    return new OrderBook(orders, timelines);
  }

  #merged(page: readonly OrderData[], timelines: Timelines): Order[] {
    const known = new Map(this.orders.map((order) => [order.order_id, order]));
    return page.map((data) => merged(known.get(data.order_id), data, timelines));
  }

  #timelinesWith(page: readonly OrderData[]): Timelines {
    const timelines = new Map(this.#timelines);
    for (const data of page) timelines.set(data.order_id, withMoments(timelines.get(data.order_id) ?? [], data));
    return timelines;
  }
}

function merged(known: Order | undefined, data: OrderData, timelines: Timelines): Order {
  const timeline = timelines.get(data.order_id)!;
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
