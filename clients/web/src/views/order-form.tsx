import { useSignal } from "@preact/signals";
import { useEffect, useId, useRef } from "preact/hooks";

import type { Words } from "../i18n/en.ts";
import { describe } from "../i18n/errors.ts";
import { LIMITS, excess } from "../model/letters.ts";
import { type Line, decimalsOf, formatMoney, isTooMuch, isWhole, mostOf, parseMoney, totalOf } from "../model/money.ts";
import { useSession, useWords } from "./context.ts";
import { Icon } from "./icons.tsx";
import { ITEM_NAMES } from "./stock.tsx";

const CURRENCIES = ["USD", "EUR", "GBP", "CNY", "JPY"];
const NEW_LINE: Line = { sku: "", quantity: "1", unitPrice: "" };

/** Submits an order: by its amount, or by items that come to one. */
export function OrderForm({ onSubmitted }: { onSubmitted: (orderId: string) => void }) {
  const { orders } = useSession();
  const words = useWords();
  const amountId = useId();
  const amountField = useRef<HTMLInputElement>(null);
  const amount = useSignal("");
  const currency = useSignal(CURRENCIES[0]!);
  const lines = useSignal<readonly (Line & { id: number })[]>([]);
  const isByItems = useSignal(false);
  const ids = useRef(0);
  const problem = useSignal<((words: Words) => string) | null>(null);
  const progress = useSignal<"idle" | "sent" | "accepted">("idle");

  const hasLines = lines.value.length > 0;
  const decimals = decimalsOf(currency.value);
  const total = hasLines ? totalOf(lines.value, decimals) : parseMoney(amount.value, decimals);
  const shownAmount = hasLines ? (total === null ? "" : formatMoney(total, decimals)) : amount.value;

  const setLines = (changed: readonly (Line & { id: number })[]) => {
    lines.value = changed;
    problem.value = null;
  };
  const add = () => setLines([...lines.value, { ...NEW_LINE, id: (ids.current += 1) }]);
  /** It opens with a line to fill in; lines that nothing was written to go when it closes. */
  const toggle = () => {
    const isUntouched = lines.value.every(({ sku, unitPrice }) => sku === "" && unitPrice === "");
    isByItems.value = !isByItems.value;
    if (isByItems.value && !hasLines) add();
    if (!isByItems.value && isUntouched) setLines([]);
  };
  const change = (id: number, changes: Partial<Line>) =>
    setLines(lines.value.map((line) => (line.id === id ? { ...line, ...changes } : line)));

  const wrong = (): ((words: Words) => string) | null => {
    const bad = lines.value.findIndex((line) => !isWhole(line, decimals));
    const example = formatMoney(9990n, decimals);
    const most = formatMoney(mostOf(decimals), decimals);
    const isMuch = (text: string) => isTooMuch(text, decimals);
    if (isMuch(shownAmount) || lines.value.some(({ unitPrice }) => isMuch(unitPrice))) {
      return (now) => now.orders.tooMuch(most);
    }
    if (bad >= 0) return (now) => now.orders.itemWrong(bad + 1, example);
    const long = lines.value.find(({ sku }) => excess(sku, LIMITS.sku) > 0)?.sku;
    if (long !== undefined) return (now) => now.problems.tooLong(excess(long, LIMITS.sku), LIMITS.sku);
    return total === null ? (now) => now.orders.amountMissing(example) : null;
  };
  const submit = async () => {
    problem.value = wrong();
    if (problem.value !== null) return amountField.current?.focus();
    progress.value = "sent";
    const items = lines.value.map(({ sku, quantity, unitPrice }) => ({
      sku: sku.trim(),
      quantity: Number(quantity),
      unit_price: formatMoney(parseMoney(unitPrice, decimals)!, decimals),
    }));
    const price = hasLines ? { items } : { amount: formatMoney(total!, decimals) };
    const order = { currency: currency.value, ...price };
    const [sentAmount, sentLines] = [amount.value, lines.value];
    try {
      onSubmitted(await orders.submit(order, () => (progress.value = "accepted")));
      // Input typed meanwhile is of the next order.
      if (lines.peek() === sentLines) {
        setLines([]);
        isByItems.value = false;
      }
      if (amount.peek() === sentAmount) amount.value = "";
    } catch (error) {
      problem.value = (now) => describe(error, now);
    } finally {
      progress.value = "idle";
    }
  };

  return (
    <form
      class="order-form"
      noValidate
      onSubmit={(event) => {
        event.preventDefault();
        void submit();
      }}
    >
      <div class="amount">
        <label for={amountId}>{words.orders.amount}</label>
        <input
          ref={amountField}
          id={amountId}
          data-testid="order-amount"
          inputMode="decimal"
          placeholder={formatMoney(0n, decimals)}
          autocomplete="off"
          aria-describedby={`${amountId}-problem`}
          aria-invalid={problem.value !== null}
          readOnly={hasLines}
          value={shownAmount}
          onInput={(event) => {
            amount.value = event.currentTarget.value;
            problem.value = null;
          }}
        />
        <select
          aria-label={words.orders.currency}
          data-testid="order-currency"
          value={currency.value}
          onChange={(event) => {
            currency.value = event.currentTarget.value;
            problem.value = null;
          }}
        >
          {CURRENCIES.map((name) => (
            <option key={name}>{name}</option>
          ))}
        </select>
        <button type="submit" class="primary" data-testid="submit-order" disabled={progress.value !== "idle"}>
          {progress.value === "accepted" ? words.orders.accepted : words.orders.submit}
        </button>
      </div>
      <p class="problem" id={`${amountId}-problem`} role="alert" data-testid="order-problem">
        {problem.value?.(words)}
      </p>
      <details open={isByItems.value}>
        <summary
          data-testid="by-items"
          onClick={(event) => {
            event.preventDefault(); // the signal opens it
            toggle();
          }}
        >
          {words.orders.byItems}
        </summary>
        <ul class="items">
          {lines.value.map((line, index) => (
            <ItemLine
              key={line.id}
              line={line}
              number={index + 1}
              decimals={decimals}
              onChange={(changes) => change(line.id, changes)}
              onRemove={() => setLines(lines.value.filter((other) => other.id !== line.id))}
            />
          ))}
        </ul>
        <button type="button" class="quiet" data-testid="add-item" onClick={add}>
          {words.orders.addItem}
        </button>
      </details>
    </form>
  );
}

interface ItemLineProps {
  line: Line;
  number: number;
  decimals: number;
  onChange: (changes: Partial<Line>) => void;
  onRemove: () => void;
}

function ItemLine({ line, number, decimals, onChange, onRemove }: ItemLineProps) {
  const { stock } = useSession();
  const { orders: words, stock: stockWords } = useWords();
  const sku = line.sku.trim();
  const item = stock.items.value.get(sku);
  // The number that is shown follows what others order.
  useEffect(() => {
    if (item !== undefined && !stock.watched.peek().has(sku)) stock.watch(sku).catch(() => {});
  }, [item === undefined ? null : sku]);
  const moveIn = (input: HTMLInputElement | null) => {
    if (input !== null && line.sku === "") input.focus(); // a new line is there to be filled in
  };
  const first = useRef(moveIn);
  return (
    <li>
      <label>
        <span>{words.sku}</span>
        <input
          ref={first.current}
          data-testid="item-sku"
          list={ITEM_NAMES}
          autocomplete="off"
          value={line.sku}
          onInput={(event) => onChange({ sku: event.currentTarget.value })}
        />
      </label>
      <label>
        <span>{words.quantity}</span>
        <input
          data-testid="item-quantity"
          inputMode="numeric"
          autocomplete="off"
          value={line.quantity}
          onInput={(event) => onChange({ quantity: event.currentTarget.value })}
        />
      </label>
      <label>
        <span>{words.price}</span>
        <input
          data-testid="item-price"
          inputMode="decimal"
          autocomplete="off"
          placeholder={formatMoney(0n, decimals)}
          value={line.unitPrice}
          onInput={(event) => onChange({ unitPrice: event.currentTarget.value })}
        />
      </label>
      <button type="button" class="quiet icon-only" aria-label={words.removeItem(number)} onClick={onRemove}>
        <Icon name="close" />
      </button>
      {item !== undefined && (
        <small class="in-stock" data-testid="item-available" data-enough={Number(line.quantity) <= item.available}>
          {stockWords.available(item.available)}
        </small>
      )}
    </li>
  );
}
