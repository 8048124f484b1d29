/* Maps of where the score is sensitive: asked for one at a time, and kept.
 *
 * In: an entry with its picture, and a method. Out: the server's answer. Of those that wait only the last is asked for: whoever
 * moves over many cells wants the one where the pointer rests.
 */

import { explain, ServerError } from "./api.js";
import { isNoPicture } from "./pictures.js";

const MOST_KEPT = 200;
const BUSY = new Set([429, 503]);

/** The maps of this visit. */
export class Maps {
  constructor() {
    this.clear();
  }

  /** Forget all maps and what waits. */
  clear() {
    this.abort?.abort();
    this.abort = new AbortController();
    this.kept = new Map();
    this.waiting = null;
    this.running = null;
  }

  /** What is known already: the answer {overlay, …}, {error} for a map that cannot be had, or undefined. */
  known(entry, method) {
    return this.kept.get(`${method} ${entry.key}`);
  }

  /** The map, from memory or from the server; null where another one was asked for in the meantime. */
  of(entry, model, method) {
    const known = this.known(entry, method);
    if (known) return Promise.resolve(known);
    const key = `${method} ${entry.key}`;
    if (this.running?.key === key) return this.running.promise;
    this.waiting?.resolve(null);
    return new Promise((resolve) => {
      this.waiting = { key, entry, model, method, resolve };
      if (!this.running) this.go();
    });
  }

  async go() {
    while (this.waiting) {
      const asked = this.waiting;
      this.waiting = null;
      const promise = this.fetch(asked);
      this.running = { key: asked.key, promise };
      asked.resolve(await promise);
      if (this.running?.promise === promise) this.running = null;
    }
  }

  async fetch({ key, entry, model, method }) {
    const { signal } = this.abort;
    try {
      const file = await entry.picture.blob();
      const answer = await explain(file, entry.row.input, model, method, signal);
      if (!signal.aborted) this.keep(key, answer);
      return answer;
    } catch (error) {
      if (error.name === "AbortError") return null;
      if (isNoPicture(error)) return { error: { message: "The page cannot read this picture." } };
      if (!(error instanceof ServerError)) throw error;
      // A busy or silent server may give the map later: only a refusal is kept.
      if (error.status && !BUSY.has(error.status) && error.status !== 401) this.keep(key, { error: error.error });
      return { error: error.error };
    }
  }

  keep(key, answer) {
    this.kept.set(key, answer);
    if (this.kept.size > MOST_KEPT) this.kept.delete(this.kept.keys().next().value);
  }
}
