import { useApp, useWords } from "./context.ts";

/** Says that names prove nothing, on every view of a page that signs people in by name alone. */
export function DemoBar() {
  const words = useWords();
  if (!useApp().config.value?.demo) return null;
  return (
    <p class="demo-bar" role="note" data-testid="demo-bar">
      {words.demo}
    </p>
  );
}
