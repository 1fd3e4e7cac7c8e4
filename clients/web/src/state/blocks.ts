/** The users whom this one blocks. The service shows them to no other user. */
import { signal } from "@preact/signals";
import type { BlockedList, Blocking } from "@towpath/client";

interface Deeds {
  list: () => Promise<BlockedList>;
  block: (user: string) => Promise<Blocking>;
  unblock: (user: string) => Promise<Blocking>;
}

export class Blocks {
  /** By name, as far as the service reported. */
  readonly users = signal<ReadonlySet<string>>(new Set());
  #deeds: Deeds;

  constructor(deeds: Deeds) {
    this.#deeds = deeds;
  }

  has(user: string): boolean {
    return this.users.value.has(user);
  }

  /** Asks whom the user blocks. Known ones stay if the service does not answer. */
  async load(): Promise<void> {
    try {
      const { users } = await this.#deeds.list();
      this.users.value = new Set(users.map(({ user }) => user));
    } catch {
      // A service that lacks the action blocks no one.
    }
  }

  async block(user: string): Promise<void> {
    await this.#deeds.block(user);
    this.users.value = new Set(this.users.peek()).add(user);
  }

  async unblock(user: string): Promise<void> {
    await this.#deeds.unblock(user);
    this.users.value = new Set([...this.users.peek()].filter((other) => other !== user));
  }
}
