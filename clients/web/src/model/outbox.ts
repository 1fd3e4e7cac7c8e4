/**
 * Messages on their way: shown at once, gone when they have arrived. No I/O; every function gives a new outbox.
 *
 * A draft's `ref` is its `client_ref` and its request's `msg_id`: sent once more it arrives once.
 */

export interface Draft {
  readonly ref: string;
  readonly room: string;
  readonly text: string;
  /** When it was written. */
  readonly at: number;
  readonly problem: Failure | null;
}

/** Why a draft did not arrive. */
export interface Failure {
  readonly error: unknown;
  /** Whether it may have arrived all the same. */
  readonly uncertain: boolean;
}

export type Outbox = readonly Draft[];

/** Puts a draft at the end, or, if it is there already, on its way again. */
export function queued(outbox: Outbox, draft: Omit<Draft, "problem">): Outbox {
  const again: Draft = { ...draft, problem: null };
  const at = outbox.findIndex(({ ref }) => ref === draft.ref);
  return at < 0 ? [...outbox, again] : outbox.with(at, again);
}

export function failed(outbox: Outbox, ref: string, problem: Failure): Outbox {
  return outbox.map((draft) => (draft.ref === ref ? { ...draft, problem } : draft));
}

export function discarded(outbox: Outbox, ref: string): Outbox {
  return outbox.filter((draft) => draft.ref !== ref);
}

/**
 * A message of one's own has arrived: its draft ends. Two-person messages come without the reference; there the first
 * draft ends that says the same.
 */
export function settled(outbox: Outbox, room: string, { ref, text }: { ref: string | null; text: string }): Outbox {
  if (ref !== null) return discarded(outbox, ref);
  const same = outbox.find((draft) => draft.room === room && draft.text === text);
  return same ? discarded(outbox, same.ref) : outbox;
}

export function draftsOf(outbox: Outbox, room: string): readonly Draft[] {
  return outbox.filter((draft) => draft.room === room);
}
