/**
 * The place one reads at: the end is followed, and elsewhere what one looks at stays where it is, whatever comes above
 * or below it.
 */
import { type Signal, useSignal } from "@preact/signals";
import type { RefObject } from "preact";
import { useLayoutEffect, useMemo, useRef } from "preact/hooks";

/** So near to the end counts as reading along. */
const NEAR_END_PX = 60;

export interface Scrolling {
  readonly log: RefObject<HTMLDivElement | null>;
  readonly list: RefObject<HTMLOListElement | null>;
  /** Whether the end is in sight. */
  readonly following: Signal<boolean>;
  readonly onScroll: () => void;
  readonly toEnd: () => void;
  /** Goes to a row, a little below the upper edge. */
  readonly toRow: (row: HTMLElement) => void;
}

/** @param onResize called after the log has got another size, which is 0 while it is not shown */
export function useScrolling(onResize: () => void): Scrolling {
  const log = useRef<HTMLDivElement>(null);
  const list = useRef<HTMLOListElement>(null);
  const following = useSignal(true);
  const anchor = useRef<{ row: HTMLElement; top: number } | null>(null);

  const scrolling = useMemo(() => {
    const remember = () => {
      const row = firstVisible(list.current!, log.current!.scrollTop);
      anchor.current = row && { row, top: row.offsetTop };
    };
    const settle = () => {
      const element = log.current!;
      if (element.clientHeight === 0) return; // hidden; called again with its size
      if (following.peek()) element.scrollTop = element.scrollHeight;
      else if (anchor.current?.row.isConnected) element.scrollTop += anchor.current.row.offsetTop - anchor.current.top;
      remember();
    };
    return {
      log,
      list,
      following,
      settle,
      onScroll: () => {
        const { scrollHeight, scrollTop, clientHeight } = log.current!;
        if (clientHeight === 0) return;
        following.value = scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
        remember();
      },
      toEnd: () => {
        following.value = true;
        settle();
      },
      toRow: (row: HTMLElement) => {
        following.value = false;
        log.current!.scrollTop = row.offsetTop - log.current!.clientHeight / 4;
        scrolling.onScroll();
      },
    };
  }, []);

  useLayoutEffect(scrolling.settle);
  // A layout effect: its end comes with the element's, not after the next paint.
  useLayoutEffect(() => {
    const resized = new ResizeObserver(() => {
      scrolling.settle(); // a banner, a keyboard, a longer draft
      onResize();
    });
    resized.observe(log.current!);
    return () => resized.disconnect();
  }, []);
  return scrolling;
}

/** The first row that reaches below `top`; rows stand in order. */
function firstVisible(list: HTMLElement, top: number): HTMLElement | null {
  const rows = list.children;
  let [low, high] = [0, rows.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    const row = rows[middle] as HTMLElement;
    if (row.offsetTop + row.offsetHeight > top) high = middle;
    else low = middle + 1;
  }
  return (rows[low] as HTMLElement | undefined) ?? null;
}
