import { partsOf } from "../model/links.ts";

/** A text of another person, with its addresses as links. They open in a window that knows nothing of this one. */
export function Linked({ text }: { text: string }) {
  return (
    <>
      {partsOf(text).map((part, at) =>
        typeof part === "string" ? (
          part
        ) : (
          <a key={at} class="link" href={part.href} target="_blank" rel="noopener noreferrer" dir="ltr">
            {part.href}
          </a>
        ),
      )}
    </>
  );
}
