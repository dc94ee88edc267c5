// Calls the server: adds the key, turns error answers into ApiError, reads server-sent events over fetch.

const KEY = "phi-serve.key";
let memory = "";

/** Return the API key of this tab, or an empty text. */
export function getKey() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return memory;
  }
}

/** Keep the API key for as long as this tab is open; an empty text forgets it. */
export function setKey(key) {
  memory = key;
  try {
    if (key) sessionStorage.setItem(KEY, key);
    else sessionStorage.removeItem(KEY);
  } catch {
    // Storage is forbidden here: the key lives as long as the page.
  }
}

/** An answer that is no success: `status`, the error's `code` and `message`, `requestId`, and seconds to wait in `retryAfter`. */
export class ApiError extends Error {
  constructor(status, { message, code = "", requestId = "", retryAfter = null }) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.code = code;
    this.requestId = requestId;
    this.retryAfter = retryAfter;
  }
}

/** Return the headers that show who asks. */
export function authHeaders() {
  const key = getKey();
  return key ? { authorization: `Bearer ${key}` } : {};
}

/**
 * Send a request and return the Response; raises ApiError unless its status is a success or in `accept`.
 *
 * `body` is sent as JSON; a text is sent as it is. Headers with empty values are left out.
 */
export async function request(path, { method, body, headers = {}, signal, accept = [] } = {}) {
  const sent = { ...authHeaders(), ...headers };
  for (const [name, value] of Object.entries(sent)) if (value === "" || value === null || value === undefined) delete sent[name];
  const text = body === undefined || typeof body === "string" ? body : JSON.stringify(body);
  if (body !== undefined && typeof body !== "string") sent["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: method ?? (body === undefined ? "GET" : "POST"), body: text, headers: sent, signal, cache: "no-store",
      credentials: "same-origin", redirect: "error",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { message: "The server does not answer.", code: "unreachable" });
  }
  if (response.ok || accept.includes(response.status)) return response;
  throw await readError(response);
}

async function readError(response) {
  const wait = Number(response.headers.get("retry-after"));
  const found = {
    message: `The server answered ${response.status}.`,
    requestId: response.headers.get("x-request-id") ?? "",
    retryAfter: wait > 0 ? wait : null,
  };
  try {
    const body = await response.json();
    const error = typeof body.error === "string" ? { message: body.error, code: body.code } : body.error;
    if (error?.message) Object.assign(found, { message: String(error.message), code: String(error.code ?? "") });
  } catch {
    // No JSON: a proxy answered, or nothing did.
  }
  return new ApiError(response.status, found);
}

/** Return the JSON of an answer; the options are those of `request`. */
export async function getJson(path, options = {}) {
  return (await request(path, options)).json();
}

/** Send JSON, return the JSON of the answer. */
export async function postJson(path, body, options = {}) {
  return getJson(path, { ...options, method: "POST", body });
}

/**
 * Yield the events of a streamed answer as they come.
 *
 * `{type: "event", event, data, id}` for an event, data joined by line feeds; `{type: "comment", text}` for a comment line, in its
 * place among the events. An event that the stream breaks off is left out.
 */
export async function* readEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const parser = new EventParser();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      yield* parser.push(value);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Cuts a stream of texts into events and comments. Pure. */
export class EventParser {
  #rest = "";
  #data = [];
  #event = "";
  #id = "";

  /** Return what the next piece completes. */
  push(text) {
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    return lines.flatMap((line) => this.#take(line));
  }

  #take(line) {
    if (line.startsWith(":")) return [{ type: "comment", text: line.slice(1).replace(/^ /, "") }];
    if (line !== "") {
      const [, name, value] = /^([^:]*)(?:: ?(.*))?$/s.exec(line);
      if (name === "data") this.#data.push(value ?? "");
      else if (name === "event") this.#event = value ?? "";
      else if (name === "id") this.#id = value ?? "";
      return [];
    }
    const found = this.#data.length ? [{ type: "event", event: this.#event || "message", data: this.#data.join("\n"), id: this.#id }] : [];
    this.#data = [];
    this.#event = "";
    return found;
  }
}
