import { useSignal } from "@preact/signals";
import { useLayoutEffect, useRef } from "preact/hooks";

import type { Words } from "../i18n/en.ts";
import { describe } from "../i18n/errors.ts";
import { LIMITS, excess } from "../model/letters.ts";
import { useApp, useWords } from "./context.ts";
import { Field } from "./field.tsx";

/** The door: a name, and which gateway it will be. */
export function SignIn() {
  const app = useApp();
  const words = useWords();
  const form = useRef<HTMLFormElement>(null);
  const name = useSignal(app.wanted.user ?? app.preferences.lastName);
  const gateway = useSignal("");
  const problem = useSignal<((words: Words) => string) | null>(null);
  const isBusy = useSignal(false);
  const input = () => form.current?.querySelector("input");

  // Before it is seen, as in the composer.
  useLayoutEffect(() => {
    if (app.returning.peek()) return;
    input()?.focus();
    app.gateways().then(
      ([first = ""]) => {
        gateway.value = first;
      },
      (error: unknown) => {
        problem.value = (now) => describe(error, now);
      },
    );
  }, []);

  const signIn = async () => {
    const given = name.value.trim();
    problem.value = given === "" ? (now) => now.signIn.nameMissing : null;
    if (given === "" || excess(given, LIMITS.user) > 0) return input()?.focus();
    isBusy.value = true;
    try {
      await app.signIn(given);
    } catch (error) {
      problem.value = (now) => describe(error, now);
      input()?.focus();
    } finally {
      isBusy.value = false;
    }
  };

  return (
    <main class="welcome" id="main">
      <form
        ref={form}
        class="card"
        noValidate
        onSubmit={(event) => {
          event.preventDefault();
          void signIn();
        }}
      >
        <h2>{words.signIn.title}</h2>
        <p class="about">{words.signIn.about}</p>
        <Field
          label={words.signIn.name}
          hint={words.signIn.hint}
          problem={problem.value?.(words) ?? ""}
          problemTestId="name-problem"
          value={name.value}
          onText={(text) => (name.value = text)}
          name="name"
          data-testid="name"
          autocomplete="username"
          autocapitalize="none"
          spellcheck={false}
          limit={LIMITS.user}
        />
        <button type="submit" class="primary" data-testid="sign-in" disabled={isBusy.value || app.returning.value}>
          {words.signIn.go}
        </button>
        {gateway.value !== "" && <p class="hint">{words.signIn.gateway(gateway.value)}</p>}
      </form>
    </main>
  );
}
