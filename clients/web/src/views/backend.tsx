import { type Signal, useSignal, useSignalEffect } from "@preact/signals";
import { useId, useRef } from "preact/hooks";

import { publishEvent } from "../demo.ts";
import type { Words } from "../i18n/en.ts";
import { describe } from "../i18n/errors.ts";
import { LIMITS, excess } from "../model/letters.ts";
import { decimalsIn, decimalsOf, formatMoney, isTooMuch, mostOf, parseMoney } from "../model/money.ts";
import { useApp, useSession, useWords } from "./context.ts";
import { Fold } from "./fold.tsx";

const EVENTS = ["confirmed", "paid", "packed", "shipped", "delivered", "rejected", "refunded", "cancelled"];
const CREATED = "order.created";
const REFUNDED = "order.refunded";
/** Of an order that is not known here, which is in USD. */
const USUAL_DECIMALS = 2;
const KEPT = 3;

interface BackendProps {
  /** The order that was submitted or picked last. */
  suggestion: Signal<{ orderId: string; picked: boolean } | null>;
}

/** Acts as another backend: publishes order events, of which the orders service and then the user hear. */
export function Backend({ suggestion }: BackendProps) {
  const { preferences } = useApp();
  const { me, orders } = useSession();
  const words = useWords();
  const id = useId();
  const [orderField, eventField] = [useRef<HTMLInputElement>(null), useRef<HTMLSelectElement>(null)];
  const [order, user, event] = [useSignal(""), useSignal(me), useSignal(`order.${EVENTS[0]}`)];
  const [amount, detail] = [useSignal(""), useSignal("")];
  const suggested = useRef("");
  const problem = useSignal<((words: Words) => string) | null>(null);
  const isBusy = useSignal(false);
  const published = useSignal<readonly { msgId: string; event: string; order: string }[]>([]);

  useSignalEffect(() => {
    const data = suggestion.value;
    if (data === null) return;
    // Something else is typed there, or is about to be: a text that is pasted now would go behind the suggestion.
    const isTaken = order.peek() !== suggested.current || document.activeElement === orderField.current;
    if (isTaken && !data.picked) return;
    order.value = suggested.current = data.orderId;
    if (!data.picked) return;
    user.value = me;
    preferences.folds.backend.value = true;
    eventField.current?.focus();
  });

  const hasAmount = event.value === CREATED || event.value === REFUNDED;
  const known = orders.book.value.orders.find(({ order_id }) => order_id === order.value.trim());
  const decimals =
    known?.amount !== undefined
      ? decimalsIn(known.amount)
      : known?.currency !== undefined
        ? decimalsOf(known.currency)
        : USUAL_DECIMALS;

  const wrong = (): ((words: Words) => string) | null => {
    if (order.value.trim() === "") return (now) => now.backend.orderMissing;
    if (user.value.trim() === "") return (now) => now.backend.userMissing;
    const fields = [
      [order.value, LIMITS.orderId],
      [user.value, LIMITS.user],
      [detail.value, LIMITS.detail],
    ] as const;
    const long = fields.find(([text, limit]) => excess(text, limit) > 0);
    if (long !== undefined) return (now) => now.problems.tooLong(excess(...long), long[1]);
    if (hasAmount && isTooMuch(amount.value, decimals)) {
      return (now) => now.orders.tooMuch(formatMoney(mostOf(decimals), decimals));
    }
    const isWrong = hasAmount && amount.value.trim() !== "" && parseMoney(amount.value, decimals) === null;
    return isWrong ? (now) => now.backend.amountWrong(formatMoney(9990n, decimals)) : null;
  };
  const publish = async () => {
    problem.value = wrong();
    if (problem.value !== null) return orderField.current?.focus();
    const [orderId, userId, note] = [order.value.trim(), user.value.trim(), detail.value.trim()];
    const minor = hasAmount ? parseMoney(amount.value, decimals) : null;
    const data = {
      order_id: orderId,
      user_id: userId,
      ...(note && { detail: note }),
      ...(minor !== null && { amount: formatMoney(minor, decimals) }),
    };
    const sent = [detail, amount].map((field) => [field, field.value] as const);
    isBusy.value = true;
    try {
      const msgId = await publishEvent(event.value, data);
      published.value = [{ msgId, event: event.value, order: orderId }, ...published.value].slice(0, KEPT);
      // A text typed meanwhile is of the next event.
      for (const [field, text] of sent) if (field.peek() === text) field.value = "";
    } catch (error) {
      problem.value = (now) => describe(error, now);
    } finally {
      isBusy.value = false;
    }
  };

  const text = (field: Signal<string>) => ({
    value: field.value,
    autocomplete: "off",
    onInput: (typed: { currentTarget: HTMLInputElement }) => {
      field.value = typed.currentTarget.value;
      problem.value = null;
    },
  });
  return (
    <Fold name="backend" title={words.backend.title}>
      <p>{words.backend.about}</p>
      <form
        noValidate
        onSubmit={(submitted) => {
          submitted.preventDefault();
          void publish();
        }}
      >
        <div>
          <label for={`${id}-order`}>{words.backend.order}</label>
          <input
            ref={orderField}
            id={`${id}-order`}
            data-testid="backend-order"
            list={`${id}-orders`}
            placeholder={words.backend.orderPlaceholder}
            aria-invalid={problem.value !== null}
            aria-describedby={`${id}-problem`}
            {...text(order)}
          />
          <datalist id={`${id}-orders`}>
            {orders.book.value.orders.map(({ order_id }) => (
              <option key={order_id} value={order_id} />
            ))}
          </datalist>
        </div>
        <div>
          <label for={`${id}-user`}>{words.backend.user}</label>
          <input
            id={`${id}-user`}
            data-testid="backend-user"
            autocapitalize="none"
            spellcheck={false}
            {...text(user)}
          />
        </div>
        <div>
          <label for={`${id}-event`}>{words.backend.event}</label>
          <select
            ref={eventField}
            id={`${id}-event`}
            data-testid="backend-event"
            value={event.value}
            onChange={(changed) => (event.value = changed.currentTarget.value)}
          >
            {EVENTS.map((name) => (
              <option key={name} value={`order.${name}`}>
                {words.orders.statuses[name]}
              </option>
            ))}
            <option value={CREATED}>{words.backend.created}</option>
          </select>
        </div>
        <div>
          <label for={`${id}-detail`}>{words.backend.detail}</label>
          <input
            id={`${id}-detail`}
            data-testid="backend-detail"
            placeholder={words.optional}
            {...text(detail)}
          />
        </div>
        {hasAmount && (
          <div>
            <label for={`${id}-amount`}>{words.backend.amount}</label>
            <input
              id={`${id}-amount`}
              data-testid="backend-amount"
              inputMode="decimal"
              placeholder={event.value === REFUNDED ? words.optional : formatMoney(0n, decimals)}
              {...text(amount)}
            />
          </div>
        )}
        <p class="problem" id={`${id}-problem`} role="alert" data-testid="backend-problem">
          {problem.value?.(words)}
        </p>
        <button type="submit" data-testid="backend-publish" disabled={isBusy.value}>
          {words.backend.publish}
        </button>
      </form>
      <ol class="published" aria-live="polite" data-testid="backend-log">
        {published.value.map(({ msgId, event: name, order: orderId }) => (
          <li key={msgId} title={msgId}>
            {words.backend.published(name, orderId)}
          </li>
        ))}
      </ol>
    </Fold>
  );
}
