/** For Node: positions in a file. */
import { randomUUID } from "node:crypto";
import { readFile, rename, rm, writeFile } from "node:fs/promises";

import type { PositionStorage } from "./storage.js";

export type { PositionStorage, StreamPositions } from "./storage.js";

/**
 * Keeps positions in a JSON file. It is replaced as a whole, so that a crash leaves the old positions or the new ones;
 * a file that isn't there holds none.
 *
 * @param path The folder must be there.
 */
export function fileStorage(path: string): PositionStorage {
  return {
    async load() {
      try {
        return JSON.parse(await readFile(path, "utf8"));
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
        throw error;
      }
    },
    async save(positions) {
      const draft = `${path}.${randomUUID()}.tmp`; // beside it: a rename is only atomic within a file system
      try {
        await writeFile(draft, JSON.stringify(positions), { flush: true });
        await rename(draft, path);
      } catch (error) {
        await rm(draft, { force: true });
        throw error;
      }
    },
  };
}
