/** Icons as strokes in the colour of the text. They are for the eye; what they mean is always said in words, too. */
import type { JSX } from "preact";

const PATHS = {
  back: "M15 5l-7 7 7 7",
  bell: "M6 17h12l-1.5-2.5V10a4.5 4.5 0 0 0-9 0v4.5zM10 19.5a2 2 0 0 0 4 0",
  bridge: "M3 7h18M12 7v5M2.5 17c1.9-2.3 4.4-2.3 6.3 0s4.4 2.3 6.3 0 4.4-2.3 6.4 0",
  chat: "M4 5h16v11H9l-5 4z",
  close: "M6 6l12 12M18 6L6 18",
  down: "M6 10l6 6 6-6",
  lock: "M6 11h12v8H6zM8.5 11V8a3.5 3.5 0 0 1 7 0v3",
  menu: "M4 7h16M4 12h16M4 17h16",
  orders: "M4 8l8-4 8 4v8l-8 4-8-4zM4 8l8 4 8-4M12 12v8",
  pencil: "M5 19l1-4L16 5l3 3L9 18z",
  people:
    "M9 11a3.2 3.2 0 1 0 0-6.4 3.2 3.2 0 0 0 0 6.4M3 19c.6-3.4 3-5 6-5s5.4 1.6 6 5" +
    "M16 5a3 3 0 0 1 0 6M17.5 14.2c2 .6 3.2 2.2 3.5 4.8",
  plus: "M12 5v14M5 12h14",
  search: "M11 18a7 7 0 1 0 0-14 7 7 0 0 0 0 14M16 16l4 4",
  trash: "M5 7h14M9 7V4h6v3M7 7l1 13h8l1-13",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }): JSX.Element {
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  );
}
