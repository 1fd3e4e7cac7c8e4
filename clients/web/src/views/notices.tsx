import { useApp, useWords } from "./context.ts";
import { Icon } from "./icons.tsx";

/** Words to the person that go away by themselves. */
export function NoticeList() {
  const { notices } = useApp();
  const words = useWords();
  return (
    <div class="notices" role="log" aria-live="polite" data-testid="notices">
      {notices.shown.value.map(({ id, kind, text }) => (
        <div key={id} class={`notice ${kind}`} data-testid="notice">
          <p>{text(words)}</p>
          <button
            type="button"
            class="quiet icon-only"
            aria-label={words.dismiss}
            onClick={() => notices.dismiss(id)}
          >
            <Icon name="close" />
          </button>
        </div>
      ))}
    </div>
  );
}
