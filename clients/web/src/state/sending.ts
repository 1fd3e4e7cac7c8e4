/** Messages on their way to the service: shown at once, sent once, and kept when they fail. */
import { type Signal, batch } from "@preact/signals";
import { type Sent, TowpathError } from "@towpath/client";

import { type Draft, type Outbox, discarded, failed, queued, settled } from "../model/outbox.ts";

export class Sending {
  readonly outbox: Signal<Outbox>;
  #send: (draft: Draft) => Promise<Sent>;
  #arrived: (draft: Draft, sent: Sent) => void;

  /**
   * @param outbox outlives this, so that what was not sent is still there with the next connection
   * @param send asks the service; a draft's `ref` is the request's `msg_id`
   * @param arrived called with the answer, in one step with the end of the draft
   */
  constructor(
    outbox: Signal<Outbox>,
    send: (draft: Draft) => Promise<Sent>,
    arrived: (draft: Draft, sent: Sent) => void,
  ) {
    this.outbox = outbox;
    this.#send = send;
    this.#arrived = arrived;
  }

  say(room: string, text: string): void {
    void this.#try({ ref: newRef(), room, text, at: Date.now(), problem: null });
  }

  /** Sends a draft that failed once more, as the same message: if the first did arrive it does not come twice. */
  again(draft: Draft): void {
    void this.#try({ ...draft, problem: null });
  }

  discard({ ref }: Draft): void {
    this.outbox.value = discarded(this.outbox.value, ref);
  }

  /** A message of one's own was pushed. */
  heard(room: string, message: { client_ref?: string; text: string }): void {
    this.outbox.value = settled(this.outbox.value, room, { ref: message.client_ref ?? null, text: message.text });
  }

  async #try(draft: Draft): Promise<void> {
    this.outbox.value = queued(this.outbox.value, draft);
    try {
      const sent = await this.#send(draft);
      batch(() => {
        this.discard(draft);
        this.#arrived(draft, sent);
      });
    } catch (error) {
      this.outbox.value = failed(this.outbox.value, draft.ref, { error, uncertain: isUncertain(error) });
    }
  }
}

/** Whether the message may have arrived although it is unconfirmed. */
function isUncertain(error: unknown): boolean {
  if (!(error instanceof TowpathError) || error.details?.["sent"] === false) return false;
  return error.code === "timeout" || error.code === "closed";
}

/** A unique reference. */
function newRef(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
