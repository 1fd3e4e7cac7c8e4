import type { JSX } from "preact";
import { useId } from "preact/hooks";

import { excess } from "../model/letters.ts";
import { useWords } from "./context.ts";

type InputProps = Pick<
  JSX.IntrinsicElements["input"],
  "autocapitalize" | "autocomplete" | "name" | "placeholder" | "spellcheck"
>;

interface FieldProps extends InputProps {
  label: string;
  value: string;
  /** How many characters fit. A longer text stays, and the field says so: a browser's limit would cut it in silence. */
  limit: number;
  onText: (text: string) => void;
  hint?: string;
  problem?: string;
  problemTestId?: string;
  "data-testid": string;
}

/** A labelled text field with its hint and what is wrong with it. */
export function Field({ label, limit, onText, hint, problem = "", problemTestId, ...input }: FieldProps) {
  const id = useId();
  const { problems } = useWords();
  const tooMany = excess(input.value, limit);
  const shown = tooMany > 0 ? problems.tooLong(tooMany, limit) : problem;
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <input
        id={id}
        autocomplete="off"
        aria-invalid={shown !== ""}
        aria-describedby={`${id}-problem ${id}-hint`}
        onInput={(event) => onText(event.currentTarget.value)}
        {...input}
      />
      <p class="problem" id={`${id}-problem`} role="alert" data-testid={problemTestId}>
        {shown}
      </p>
      {hint && (
        <p class="hint" id={`${id}-hint`}>
          {hint}
        </p>
      )}
    </div>
  );
}
