import { shown } from "@towpath/client";

/** A name of a user or a room: what is hidden in it is shown, and its direction does not reach beyond it. */
export function Name({ of, class: style }: { of: string; class?: string }) {
  return <bdi class={style}>{shown(of)}</bdi>;
}
