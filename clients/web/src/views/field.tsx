import type { JSX } from "preact";
import { useId } from "preact/hooks";

type InputProps = Pick<
  JSX.IntrinsicElements["input"],
  "autocapitalize" | "autocomplete" | "maxLength" | "name" | "placeholder" | "spellcheck" | "value"
>;

interface FieldProps extends InputProps {
  label: string;
  onText: (text: string) => void;
  hint?: string;
  problem?: string;
  problemTestId?: string;
  "data-testid": string;
}

/** A labelled text field with its hint and what is wrong with it. */
export function Field({ label, onText, hint, problem = "", problemTestId, ...input }: FieldProps) {
  const id = useId();
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <input
        id={id}
        autocomplete="off"
        aria-invalid={problem !== ""}
        aria-describedby={`${id}-problem ${id}-hint`}
        onInput={(event) => onText(event.currentTarget.value)}
        {...input}
      />
      <p class="problem" id={`${id}-problem`} role="alert" data-testid={problemTestId}>
        {problem}
      </p>
      {hint && (
        <p class="hint" id={`${id}-hint`}>
          {hint}
        </p>
      )}
    </div>
  );
}
