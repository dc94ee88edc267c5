/**
 * Follows the server's stream of events: opens it, notices silence, opens it anew with growing pauses, and lets go of it while the page
 * is out of sight. Knows nothing of what the events mean.
 */

import { readEvents } from "/pages/shared/api.js";

const PAUSES_S = [1, 2, 4, 8, 15];
const SILENCE_S = 15;
const HIDDEN_S = 60;

export class Stream {
  /**
   * `open(signal)` returns the Response of the stream; `take(name, value)` gets its events; `refused(error)` hears of 401 and 403,
   * after which the stream rests until `start`.
   */
  constructor({ open, take, refused }) {
    this.open = open;
    this.take = take;
    this.refused = refused;
    /** connecting, open, waiting (for the next try), hidden or stopped */
    this.phase = "stopped";
    /** When something was last heard, in ms of this machine's clock; 0: never. */
    this.heardAt = 0;
    this.retryAt = 0;
    this.fault = "";
    this.failures = 0;
    document.addEventListener("visibilitychange", () => this.#see());
    window.addEventListener("online", () => this.retry());
  }

  start() {
    if (this.phase === "stopped") this.#run();
  }

  stop() {
    this.phase = "stopped";
    this.#end();
  }

  /** Try again now instead of after the pause. */
  retry() {
    if (this.phase === "waiting") this.#run();
  }

  #end() {
    clearTimeout(this.timer);
    clearInterval(this.watch);
    this.controller?.abort();
  }

  #see() {
    clearTimeout(this.hiding);
    if (!document.hidden) {
      if (this.phase === "hidden") this.#run();
      return;
    }
    this.hiding = setTimeout(() => {
      if (this.phase === "stopped") return;
      this.phase = "hidden";
      this.#end();
    }, HIDDEN_S * 1000);
  }

  async #run() {
    this.#end();
    const controller = (this.controller = new AbortController());
    this.phase = "connecting";
    let begun = performance.now();
    const watch = (this.watch = setInterval(() => {
      if (performance.now() - begun > SILENCE_S * 1000) controller.abort();
    }, 1000));
    try {
      const response = await this.open(controller.signal);
      for await (const event of readEvents(response)) {
        if (controller !== this.controller) return;
        begun = performance.now();
        this.heardAt = Date.now();
        if (event.type !== "event") continue;
        this.phase = "open";
        this.failures = 0;
        this.fault = "";
        this.take(event.event, JSON.parse(event.data));
      }
      this.fault = "the server ended the stream";
    } catch (error) {
      if (controller !== this.controller || this.phase === "hidden" || this.phase === "stopped") return;
      if (error.status === 401 || error.status === 403) {
        this.stop();
        this.refused(error);
        return;
      }
      this.fault = error.name === "AbortError" ? "the server fell silent" : error.message;
    } finally {
      clearInterval(watch);
    }
    if (controller !== this.controller || this.phase === "hidden" || this.phase === "stopped") return;
    this.#wait();
  }

  #wait() {
    const pauseS = PAUSES_S[Math.min(this.failures, PAUSES_S.length - 1)] * (0.8 + 0.4 * Math.random());
    this.failures += 1;
    this.phase = "waiting";
    this.retryAt = Date.now() + pauseS * 1000;
    this.timer = setTimeout(() => this.#run(), pauseS * 1000);
  }
}
