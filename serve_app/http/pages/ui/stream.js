// One answer of the server: asks for it, streamed or whole, and collects text, calls, figures and the route as they come.

import { ApiError, readEvents, request } from "/pages/shared/api.js";
import { MARK_END, MARK_START, withoutMarks } from "/pages/ui/markdown.js";

export const CHAT_PATH = "/v1/chat/completions";

/** An answer as far as it has come. `state` is waiting, answering, done, stopped or failed. */
export class Answer {
  state = "waiting";
  /** The text as the model wrote it. */
  text = "";
  thoughts = "";
  /** `{id, name, arguments}` by their index. */
  calls = [];
  /** The entries of `logprobs.content`, in their order. */
  logprobs = [];
  finish = "";
  usage = null;
  /** What the headers say: group, reason, attempts, task, model, requestId, candidates. */
  route = {};
  /** Where another group continued: `{at, group, attempt, reason}`; `at` is a position in `text`. */
  moves = [];
  firstTokenS = null;
  seconds = null;
  streamed = true;
  invalidCalls = [];
  invalidAnswer = false;
  error = null;

  get busy() {
    return this.state === "waiting" || this.state === "answering";
  }

  /** Tokens per second after the first one; over the whole time where the answer came whole. */
  get tokensPerSecond() {
    const tokens = this.usage?.completion_tokens ?? 0;
    if (this.seconds === null || !tokens) return null;
    if (!this.streamed) return tokens / this.seconds;
    const span = this.seconds - (this.firstTokenS ?? 0);
    return tokens > 1 && span > 0 ? (tokens - 1) / span : null;
  }

  /** The text with markers of `renderMarkdown` where another group continued. */
  get markedText() {
    let shown = "";
    let at = 0;
    for (const [number, move] of this.moves.entries()) {
      shown += withoutMarks(this.text.slice(at, move.at)) + MARK_START + number + MARK_END;
      at = move.at;
    }
    return shown + withoutMarks(this.text.slice(at));
  }

  /** The message that repeats this answer in a conversation. */
  toMessage() {
    const message = { role: "assistant", content: this.text || (this.calls.length ? null : "") };
    if (this.calls.length) {
      message.tool_calls = this.calls.map(({ id, name, arguments: given }) => ({ id, type: "function", function: { name, arguments: given } }));
    }
    return message;
  }

  static fromText(text) {
    const answer = new Answer();
    Object.assign(answer, { text, state: "done", finish: "stop" });
    return answer;
  }
}

/**
 * Fill `answer` with what the server answers to `body`; resolves when it has ended, and raises nothing.
 *
 * `onChange(answer)` is called after every piece. An aborted `signal` stops the answer.
 */
export async function fetchAnswer(answer, body, { headers = {}, signal, onChange = () => {} } = {}) {
  const began = performance.now();
  const elapsed = () => (performance.now() - began) / 1000;
  answer.streamed = body.stream !== false;
  const sent = answer.streamed ? { ...body, stream: true, stream_options: { include_usage: true } } : body;
  try {
    const response = await request(CHAT_PATH, { body: sent, headers: { "x-debug-route": "true", ...headers }, signal });
    answer.route = readRoute(response.headers);
    if (answer.streamed) await readStream(answer, response, elapsed, onChange);
    else takeWhole(answer, await response.json(), response.headers);
    answer.state = answer.error ? "failed" : "done";
  } catch (error) {
    if (error.name === "AbortError") {
      answer.state = "stopped";
    } else {
      answer.state = "failed";
      answer.error = error instanceof ApiError ? error : new ApiError(0, { message: "The connection broke off before the answer ended.", code: "broken" });
    }
  }
  answer.seconds = elapsed();
  onChange(answer);
}

function readRoute(headers) {
  const named = (name) => {
    const value = headers.get(name);
    return value && value !== "none" ? decodeURIComponent(value) : null;
  };
  return {
    group: named("x-engine"),
    reason: named("x-route-reason"),
    attempts: Number(headers.get("x-attempts") ?? 0),
    task: named("x-task"),
    model: named("x-model"),
    requestId: headers.get("x-request-id"),
    dropped: Number(headers.get("x-dropped-messages") ?? 0),
    candidates: parseOr(headers.get("x-route-candidates"), null),
  };
}

function parseOr(text, otherwise) {
  try {
    return text ? JSON.parse(text) : otherwise;
  } catch {
    return otherwise;
  }
}

async function readStream(answer, response, elapsed, onChange) {
  let ended = false;
  for await (const each of readEvents(response)) {
    if (each.type === "comment") takeComment(answer, each.text);
    else if (each.data === "[DONE]") ended = true;
    else takeChunk(answer, parseOr(each.data, {}), elapsed);
    onChange(answer);
  }
  if (!ended && !answer.error) throw new ApiError(0, { message: "The answer broke off before its end.", code: "broken" });
}

function takeComment(answer, text) {
  const match = /^route (\{.*\})$/.exec(text);
  const move = match ? parseOr(match[1], null) : null;
  if (!move) return;
  const begun = answer.text || answer.thoughts || answer.calls.length;
  if (begun) answer.moves.push({ at: answer.text.length, group: String(move.group), attempt: move.attempt, reason: String(move.reason ?? "") });
  answer.route = { ...answer.route, group: move.group ?? answer.route.group, attempts: move.attempt ?? answer.route.attempts, reason: move.reason ?? answer.route.reason };
}

function takeChunk(answer, chunk, elapsed) {
  if (chunk.error) {
    answer.error = new ApiError(200, { message: chunk.error.message, code: chunk.error.code, requestId: answer.route.requestId ?? "" });
    return;
  }
  if (chunk.usage) answer.usage = chunk.usage;
  for (const choice of chunk.choices ?? []) {
    const delta = choice.delta ?? {};
    const thought = delta.reasoning ?? delta.reasoning_content ?? "";
    if ((delta.content || thought || delta.tool_calls) && answer.firstTokenS === null) {
      answer.firstTokenS = elapsed();
      answer.state = "answering";
    }
    answer.text += delta.content ?? "";
    answer.thoughts += thought;
    for (const call of delta.tool_calls ?? []) takeCall(answer, call);
    answer.logprobs.push(...(choice.logprobs?.content ?? []));
    takeEnd(answer, choice);
  }
}

function takeCall(answer, delta) {
  const call = (answer.calls[delta.index] ??= { id: "", name: "", arguments: "" });
  call.id ||= delta.id ?? "";
  call.name ||= delta.function?.name ?? "";
  call.arguments += delta.function?.arguments ?? "";
}

function takeEnd(answer, choice) {
  if (choice.finish_reason) answer.finish = choice.finish_reason;
  answer.invalidCalls = choice.invalid_tool_arguments ?? answer.invalidCalls;
  answer.invalidAnswer = choice.invalid_answer ?? answer.invalidAnswer;
}

function takeWhole(answer, body, headers) {
  const choice = body.choices[0];
  answer.text += choice.message.content ?? "";
  answer.thoughts = choice.message.reasoning ?? "";
  answer.calls = (choice.message.tool_calls ?? []).map((call) => ({ id: call.id, ...call.function }));
  answer.logprobs = choice.logprobs?.content ?? [];
  answer.usage = body.usage;
  takeEnd(answer, choice);
  const flagged = headers.get("x-invalid-tool-arguments");
  if (flagged && !answer.invalidCalls.length) answer.invalidCalls = flagged.split(",").map(decodeURIComponent);
}
