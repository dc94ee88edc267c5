/**
 * What the page knows: the last state, fifteen minutes of points, finished requests. Filled by the stream's events and read by
 * the panels. Knows no DOM and no network.
 */

const POINTS = 90;
const FINISHED = 5000;

export class Store {
  constructor() {
    this.state = null;
    this.points = [];
    /** Finished requests, newest first. */
    this.finished = [];
    this.known = new Set();
    this.version = "";
    this.everyS = 2;
    /** Seconds by which the server's clock is ahead of this one. */
    this.skewS = 0;
    this.changed = new Set();
    this.listeners = [];
  }

  /** Call `listener` after each change. */
  subscribe(listener) {
    this.listeners.push(listener);
  }

  /** Take an event of the stream. Names that this page does not know are left alone. */
  take(name, value) {
    if (name === "hello") {
      this.version = value.version;
      this.everyS = value.every_s;
      this.points = value.history.slice(-POINTS);
      this.addFinished(value.requests);
      this.setState(value.state);
      this.note("points");
    } else if (name === "state") this.setState(value);
    else if (name === "requests") this.addFinished(value.finished);
    else if (name === "point") {
      this.points = [...this.points, value].slice(-POINTS);
      this.note("points");
    }
  }

  setState(state) {
    this.state = state;
    this.skewS = state.now - Date.now() / 1000;
    this.note("state");
  }

  /** Add requests in any order; those that are known stay once. */
  addFinished(requests) {
    const added = requests.filter((each) => !this.known.has(nameOf(each)));
    if (!added.length) return;
    this.finished = [...added, ...this.finished].sort((a, b) => b.at - a.at);
    for (const each of added) this.known.add(nameOf(each));
    for (const each of this.finished.splice(FINISHED)) this.known.delete(nameOf(each));
    this.note("finished");
  }

  note(what) {
    this.changed.add(what);
    for (const listener of this.listeners) listener(what);
  }

  /** Now, by the server's clock. */
  now() {
    return Date.now() / 1000 + this.skewS;
  }
}

/** A request's name on this page: clients may send one id twice. */
export const nameOf = (request) => `${request.id} ${request.ingress} ${request.at}`;
