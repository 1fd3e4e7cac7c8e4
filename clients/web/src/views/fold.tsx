import type { ComponentChildren } from "preact";
import { useId } from "preact/hooks";

import type { FoldName } from "../state/preferences.ts";
import { useApp } from "./context.ts";
import { Icon } from "./icons.tsx";

interface FoldProps {
  name: FoldName;
  title: string;
  children: ComponentChildren;
}

/** A panel that can be folded to its title, and stays so: https://www.w3.org/WAI/ARIA/apg/patterns/disclosure/ */
export function Fold({ name, title, children }: FoldProps) {
  const { folds } = useApp().preferences;
  const id = useId();
  const isOpen = folds[name].value;
  return (
    <section class={`panel ${name}`} aria-labelledby={`${id}-title`} data-testid={name} data-open={isOpen}>
      <h2 id={`${id}-title`}>
        <button
          type="button"
          class="quiet fold"
          data-testid={`fold-${name}`}
          aria-expanded={isOpen}
          aria-controls={`${id}-body`}
          onClick={() => (folds[name].value = !isOpen)}
        >
          {title}
          <Icon name="down" />
        </button>
      </h2>
      <div class="panel-body" id={`${id}-body`} hidden={!isOpen}>
        {children}
      </div>
    </section>
  );
}
