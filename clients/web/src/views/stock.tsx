import { useSignal } from "@preact/signals";
import type { StockState } from "@towpath/client";
import { useId } from "preact/hooks";

import type { Words } from "../i18n/en.ts";
import { describe } from "../i18n/errors.ts";
import { LIMITS, checkLength } from "../model/letters.ts";
import { useApp, useLanguage, useSession } from "./context.ts";
import { Fold } from "./fold.tsx";
import { Icon } from "./icons.tsx";

/** The names of known items, for fields to choose from. */
export const ITEM_NAMES = "item-names";
const MOST = 1_000_000_000;

/** How many there are of the items that the person watches; nothing where no service has it. */
export function StockPanel() {
  const { stock } = useSession();
  const { words } = useLanguage();
  if (!stock.isThere.value) return null;
  const watched = [...stock.watched.value].flatMap((sku) => stock.items.value.get(sku) ?? []);
  return (
    <Fold name="stock" title={words.stock.title}>
      <datalist id={ITEM_NAMES}>
        {[...stock.items.value.keys()].map((sku) => (
          <option key={sku} value={sku} />
        ))}
      </datalist>
      <ul class="stock-list" data-testid="stock-list">
        {watched.map((item) => (
          <Entry key={item.sku} item={item} />
        ))}
      </ul>
      {watched.length === 0 && <p class="empty">{words.stock.none}</p>}
      <WatchForm />
    </Fold>
  );
}

function Entry({ item: { sku, on_hand, reserved, available } }: { item: StockState }) {
  const app = useApp();
  const { stock } = useSession();
  const { words, number } = useLanguage();
  return (
    <li data-testid={`stock-${sku}`} data-available={available}>
      <strong class="sku">{sku}</strong>
      <span class="available">{words.stock.available(available)}</span>
      <small>{words.stock.details(number(on_hand), number(reserved))}</small>
      <button
        type="button"
        class="quiet icon-only"
        aria-label={words.stock.unwatch(sku)}
        title={words.stock.unwatch(sku)}
        onClick={() => void app.notices.attempt(`watching ${sku}`, () => stock.unwatch(sku))}
      >
        <Icon name="close" />
      </button>
    </li>
  );
}

/** Watches an item; a person with the right to it sets how many there are. */
function WatchForm() {
  const { stock } = useSession();
  const { words } = useLanguage();
  const id = useId();
  const [sku, count] = [useSignal(""), useSignal("")];
  const problem = useSignal<((now: Words) => string) | null>(null);
  const submit = async () => {
    const [name, typed] = [sku.value.trim(), count.value.trim()];
    problem.value = null;
    if (name === "") return void (problem.value = (now) => now.stock.nameMissing);
    if (typed !== "" && !(/^\d{1,10}$/.test(typed) && Number(typed) <= MOST)) {
      return void (problem.value = (now) => now.stock.countWrong);
    }
    try {
      checkLength(name, LIMITS.sku);
      if (typed !== "") await stock.set(name, Number(typed));
      await stock.watch(name);
      [sku.value, count.value] = ["", ""];
    } catch (error) {
      problem.value = (now) => describe(error, now);
    }
  };
  return (
    <form
      class={stock.maySet ? "stock-form with-count" : "stock-form"}
      noValidate
      onSubmit={(event) => {
        event.preventDefault();
        void submit();
      }}
    >
      <label for={`${id}-sku`}>{words.orders.sku}</label>
      {stock.maySet && <label for={`${id}-count`}>{words.stock.onHand}</label>}
      <input
        id={`${id}-sku`}
        data-testid="stock-sku"
        list={ITEM_NAMES}
        autocomplete="off"
        aria-invalid={problem.value !== null}
        aria-describedby={`${id}-problem`}
        value={sku.value}
        onInput={(event) => ([sku.value, problem.value] = [event.currentTarget.value, null])}
      />
      {stock.maySet && (
        <input
          id={`${id}-count`}
          data-testid="stock-count"
          inputMode="numeric"
          autocomplete="off"
          placeholder={words.optional}
          value={count.value}
          onInput={(event) => ([count.value, problem.value] = [event.currentTarget.value, null])}
        />
      )}
      <button type="submit" data-testid="watch-stock">
        {stock.maySet && count.value.trim() !== "" ? words.stock.set : words.stock.watch}
      </button>
      <p class="problem" id={`${id}-problem`} role="alert" data-testid="stock-problem">
        {problem.value?.(words)}
      </p>
    </form>
  );
}
